"""Settings: what each kind takes, how a call goes over a checkpoint, and that every mistake is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from lco_embedding import LCOEmbedding
from lco_embedding.checkpoints.builtin import checkpoint_of
from lco_embedding.modules import processing_settings
from lco_embedding.modules.backbones import BACKBONES, Backbone
from lco_embedding.modules.media_features import MediaReader
from tests.conftest import clip, noise, tone

# Checkpoint of `tests.tiny` -> model type of its backbone.
NAMES = {"thinker": "qwen2_5_omni_thinker", "qwen2_5_vl": "qwen2_5_vl", "llava_next": "llava_next"}

Parts = tuple[Any, Backbone]


@pytest.fixture(scope="module")
def parts(checkpoints: Callable[[str], Path]) -> Callable[[str], Parts]:
    """Return a function that gives the processor and the record of an architecture."""
    built: dict[str, Parts] = {}

    def build(name: str) -> Parts:
        if name not in built:
            backbone = next(backbone for backbone in BACKBONES if backbone.model_type == NAMES[name])
            built[name] = AutoProcessor.from_pretrained(checkpoints(name)), backbone
        return built[name]

    return build


def both_ways(given: Any, processor: Any, backbone: Backbone) -> list[processing_settings.ProcessingKwargs]:
    """Return the settings of a checkpoint that states `given`, and of one that does not with a call over it."""
    stated = processing_settings.with_defaults(given, processor, backbone)
    plain = processing_settings.with_defaults({}, processor, backbone)
    return [stated, MediaReader(processor, backbone, processing_settings.override(plain, given, backbone)).settings]


WRONG: list[tuple[Any, str]] = [
    ("image", r"processing_kwargs must be a dict of some of .*, got 'image'"),
    ({"images": {}}, r"unknown processing_kwargs \['images'\]; expected some of \['audio', "),
    ({3: {}}, r"unknown processing_kwargs \['3'\]"),
    ({"image": None}, "processing_kwargs of image must be a dict, got None"),
    ({"common": 1}, "processing_kwargs of common must be a dict, got 1"),
    ({"image": {"max_pixel": 1}}, r"'max_pixel' \(1\) is no setting of image; expected some of .*resample"),
    ({"image": {5: 1}}, r"5 \(1\) is no setting of image"),
    ({"image": {"patch_size": 3}}, r"'patch_size' \(3\) is no setting of image"),
    ({"image": {"do_resize": "no"}}, "do_resize of image can't be 'no': .*bool"),
    ({"image": {"image_mean": "x"}}, "image_mean of image can't be 'x'"),
    ({"image": {"resample": 99}}, "resample of image must be the number of a filter of Pillow, 0 to 5, got 99"),
    ({"text": {"max_len": 3}}, r"'max_len' \(3\) is no setting of text; expected some of .*max_length"),
    ({"text": {"max_length": 2.5}}, "max_length of text must be positive and whole, or None, got 2.5"),
    ({"text": {"max_length": 0}}, "max_length of text must be positive"),
    ({"text": {"max_length": True}}, "max_length of text must be positive"),
    ({"chat_template": {"add_generation_prompt": "yes"}}, "add_generation_prompt of chat_template must be True or"),
]

WRONG_AREAS: list[tuple[Any, str]] = [
    ({"image": {"max_pixels": 1e6}}, "max_pixels of image must be positive and whole, got 1000000.0"),
    ({"image": {"max_pixels": "1"}}, "max_pixels of image must be positive and whole, got '1'"),
    ({"image": {"max_pixels": True}}, "max_pixels of image must be positive and whole, got True"),
    ({"image": {"min_pixels": 0}}, "min_pixels of image must be positive and whole, got 0"),
    ({"image": {"min_pixels": 10**9}}, r"min_pixels of image \(1000000000\) is above max_pixels"),
    ({"image": {"size": 300}}, "size of image must be {'shortest_edge': least.*got 300"),
    ({"image": {"size": None}}, "size of image must be"),
    ({"video": {"size": {"height": 3, "width": 3}}}, "size of video must be {'shortest_edge': least"),
    ({"video": {"size": {"shortest_edge": 2, "longest_edge": 1}}}, "size of video must be"),
    ({"video": {"fps": "2"}}, "fps of video must be positive and finite, got '2'"),
    ({"video": {"fps": float("nan")}}, "fps of video must be positive and finite, got nan"),
    ({"video": {"fps": float("inf")}}, "fps of video must be positive and finite, got inf"),
    ({"video": {"fps": True}}, "fps of video must be positive and finite, got True"),
    ({"video": {"fps": None}}, "fps of video must be positive and finite, got None"),
    ({"video": {"max_frames": 2.0}}, "max_frames of video must be positive and whole, got 2.0"),
    ({"video": {"min_frames": 8, "max_frames": 4}}, r"min_frames of video \(8\) is above max_frames \(4\)"),
    ({"video": {"min_frames": 65}}, r"min_frames of video \(65\) is above max_frames \(64\)"),
    ({"video": {"do_sample_frames": 1}}, "do_sample_frames of video must be True or False, got 1"),
    ({"video": {"num_frames": 4}}, r"'num_frames' \(4\) is no setting of video; expected some of .*max_frames"),
    ({"video": {"fsp": 4}}, r"'fsp' \(4\) is no setting of video"),
]


WRONG_SOUND: list[tuple[Any, str]] = [
    ({"audio": {"truncation": "longest_first"}}, "truncation of audio must be True or False, got 'longest_first'"),
    ({"audio": {"raw_speech": []}}, r"'raw_speech' \(\[\]\) is no setting of audio"),
    ({"video": {"load_audio_from_video": 1}}, "load_audio_from_video of video must be True or False, got 1"),
    ({"video": {"use_audio_in_video": True}}, "must be False; set load_audio_from_video"),
]

# What an architecture without the means takes no setting for.
WRONG_HERE: dict[str, list[tuple[Any, str]]] = {
    "llava_next": [
        ({"image": {"max_pixels": 784}}, r"'max_pixels' \(784\) is no setting of image"),
        ({"image": {"size": {"shortest_edge": -1}}}, "size of image must be positive and whole pixels"),
    ],
    "qwen2_5_vl": [({"video": {"load_audio_from_video": True}}, r"'load_audio_from_video' \(True\) is no setting")],
}

REFUSALS = [
    *[(name, *case) for name in NAMES for case in WRONG],
    *[(name, *case) for name in ("thinker", "qwen2_5_vl") for case in WRONG_AREAS],
    *[("thinker", *case) for case in WRONG_SOUND],
    *[(name, *case) for name, cases in WRONG_HERE.items() for case in cases],
]


@pytest.mark.parametrize(("name", "given", "reason"), REFUSALS, ids=lambda value: str(value)[:40])
def test_mistakes_are_named(parts: Callable[[str], Parts], name: str, given: Any, reason: str) -> None:
    processor, backbone = parts(name)
    with pytest.raises(ValueError, match=reason):
        processing_settings.with_defaults(given, processor, backbone)
    plain = processing_settings.with_defaults({}, processor, backbone)
    with pytest.raises(ValueError, match=reason):
        MediaReader(processor, backbone, processing_settings.override(plain, given, backbone))


# What checkpoints of stock Sentence Transformers may state, and users reasonably pass.
RIGHT: dict[str, list[processing_settings.ProcessingKwargs]] = {
    "thinker": [
        {},
        {"common": {"return_tensors": "pt", "padding": True, "anything": 1}},
        {"text": {"padding": True, "truncation": "longest_first", "padding_side": "left", "logits_to_keep": 1}},
        {"text": {"max_length": 650}},
        {"text": {"max_length": None}},
        {"chat_template": {"chat_template": "sentence_transformers", "add_generation_prompt": True, "other": [1]}},
        {"image": {"do_rescale": False, "do_normalize": False, "resample": 2, "image_mean": [0.5, 0.5, 0.5]}},
        {"image": {"do_convert_rgb": None, "return_tensors": "pt", "device": "cpu"}},
        {"image": {"size": {"shortest_edge": 784, "longest_edge": 7840}}},
        {"audio": {"truncation": True, "padding": "max_length", "sampling_rate": 16_000, "max_length": 480_000}},
        {"audio": {"return_attention_mask": True}},
        {"video": {"fps": 1, "min_frames": 2, "max_frames": 8, "do_sample_frames": False, "return_metadata": True}},
        {"video": {"use_audio_in_video": False, "load_audio_from_video": False, "seconds_per_chunk": 2.0}},
    ],
    "qwen2_5_vl": [{"audio": {"anything": 1}}, {"video": {"max_pixels": 784, "resample": 3}}],
    "llava_next": [{"video": {"fps": 1.0}}, {"image": {"size": {"shortest_edge": 28}, "do_pad": True}}],
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, all_given in RIGHT.items() for given in all_given])
def test_settings_of_stock_are_taken_and_kept(parts: Callable[[str], Parts], name: str, given: Any) -> None:
    before = json.dumps(given)
    for complete in both_ways(given, *parts(name)):
        for kind, values in given.items():
            kept = {key: value for key, value in values.items() if key not in ("max_pixels", "min_pixels")}
            assert complete[kind].items() >= kept.items()
        assert processing_settings.with_defaults(json.loads(json.dumps(complete)), *parts(name)) == complete
    assert json.dumps(given) == before


@pytest.mark.parametrize("name", NAMES)
def test_settings_without_effect_change_no_features(
    checkpoints: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LCOEmbedding(checkpoints(name), device="cpu")
    values = {"text": "a text", "image": noise(84, 84, 3), "audio": tone(0.5), "video": {"video": clip()}}
    silent = {
        "common": {"return_tensors": "np", "do_rescale": False},
        "text": {"padding": "max_length", "return_tensors": "np"},
        "image": {"return_tensors": "np"},
        "audio": {"padding": "max_length", "max_length": 9, "return_attention_mask": False, "sampling_rate": 8000},
        "video": {"return_tensors": "np", "return_metadata": True},
    }
    for kind in model.omni.backbone.kinds:
        plain = model.preprocess([values[kind]])
        settled = model.preprocess([values[kind]], processing_kwargs=silent)
        assert plain.keys() == settled.keys()
        for key, value in plain.items():
            assert (value == settled[key]).all() if hasattr(value, "all") else value == settled[key]


def test_settings_of_the_processor_reach_it(shared_model: LCOEmbedding) -> None:
    plain = shared_model.preprocess([noise(84, 84, 3)])["pixel_values"]
    bare = shared_model.preprocess([noise(84, 84, 3)], processing_kwargs={"image": {"do_normalize": False}})
    assert (bare["pixel_values"].min(), bare["pixel_values"].max()) >= (0, 0)
    assert not (plain == bare["pixel_values"]).all()


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"max_pixels": 5000}, (784, 5000)),
        ({"max_pixels": 500}, (500, 500)),
        ({"min_pixels": 1000}, (1000, 28_224)),
        ({"min_pixels": 1000, "max_pixels": 1000}, (1000, 1000)),
        ({"size": {"shortest_edge": 10, "longest_edge": 20}}, (10, 20)),
        ({"size": {"shortest_edge": 10, "longest_edge": 20}, "max_pixels": 15}, (10, 15)),
        ({"size": {"shortest_edge": 10, "longest_edge": 20}, "max_pixels": 5}, (5, 5)),
        ({"size": {"shortest_edge": 10, "longest_edge": 10**9}}, (10, 10**9)),
    ],
)
def test_pixels_are_written_into_the_size(
    parts: Callable[[str], Parts], given: dict[str, Any], size: tuple[int, int]
) -> None:
    for complete in both_ways({"image": given}, *parts("thinker")):
        assert complete["image"] == {"size": {"shortest_edge": size[0], "longest_edge": size[1]}}


def test_least_frames_follow_the_most_unless_given(parts: Callable[[str], Parts]) -> None:
    for complete in both_ways({"video": {"max_frames": 2}}, *parts("thinker")):
        assert (complete["video"]["min_frames"], complete["video"]["max_frames"]) == (2, 2)
    for complete in both_ways({"video": {"min_frames": 10, "max_frames": 10}}, *parts("thinker")):
        assert complete["video"]["min_frames"] == 10


def test_without_sampling_every_frame_is_taken_up_to_the_most(parts: Callable[[str], Parts]) -> None:
    for complete in both_ways({"video": {"do_sample_frames": False, "max_frames": 20}}, *parts("thinker")):
        chosen = processing_settings.sampling(complete, parts("thinker")[1])
        assert chosen.indices(20, 30.0) == list(range(20))
        assert len(chosen.indices(200, 30.0)) == 20


def test_a_call_goes_over_the_checkpoint_and_leaves_it_as_it_is(parts: Callable[[str], Parts]) -> None:
    processor, backbone = parts("thinker")
    stated = processing_settings.with_defaults({"video": {"fps": 1.0}, "text": {"max_length": 9}}, processor, backbone)
    before = json.dumps(stated)
    merged = processing_settings.override(stated, {"video": {"max_frames": 8}, "text": {"max_length": None}}, backbone)
    assert (merged["video"]["fps"], merged["video"]["max_frames"], merged["text"]["max_length"]) == (1.0, 8, None)
    assert json.dumps(stated) == before
    assert processing_settings.override(stated, None, backbone) is stated


def test_the_shipped_checkpoint_states_settings_that_hold(parts: Callable[[str], Parts]) -> None:
    stated = json.loads(Path(checkpoint_of("miniature"), "sentence_bert_config.json").read_text())["processing_kwargs"]
    assert processing_settings.with_defaults(stated, *parts("thinker")) == stated
