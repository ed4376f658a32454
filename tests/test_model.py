"""The model a user holds: invariants of encode, errors, and saving and loading."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from lco_embedding import InputError, LastTokenPooling, LCOEmbedding, OmniTransformer
from lco_embedding.miniature import architecture
from lco_embedding.modules.inputs import Problem
from tests.conftest import clip, mixed_inputs, noise, tone

# --- it is right ----------------------------------------------------------------------------------------------------


def test_embeddings_differ_and_are_normalised(shared_model: LCOEmbedding) -> None:
    embeddings = shared_model.encode(mixed_inputs())
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    similarities = embeddings @ embeddings.T - np.eye(len(embeddings))
    assert similarities.max() < 0.9999, "two different inputs have one embedding: parity tests would be vacuous"


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_batch_size_does_not_change_embeddings(shared_model: LCOEmbedding, batch_size: int) -> None:
    inputs = mixed_inputs()
    alone = np.stack([shared_model.encode(value) for value in inputs])
    np.testing.assert_allclose(shared_model.encode(inputs, batch_size=batch_size), alone, atol=1e-5)


def test_order_does_not_change_embeddings(shared_model: LCOEmbedding) -> None:
    inputs = mixed_inputs()
    order = np.random.default_rng(0).permutation(len(inputs))
    shuffled = shared_model.encode([inputs[index] for index in order], batch_size=3)
    np.testing.assert_allclose(shuffled, shared_model.encode(inputs, batch_size=3)[order], atol=1e-5)


def test_left_padding_equals_right(model: LCOEmbedding) -> None:
    inputs = mixed_inputs()
    left = model.encode(inputs)
    model.tokenizer.padding_side = "right"
    features = model.preprocess(inputs)
    assert features["attention_mask"][:, 0].all(), "the padding is not on the right"
    np.testing.assert_allclose(model.encode(inputs), left, atol=1e-5)


def test_mixed_batch_of_videos_with_and_without_sound_equals_each_alone(shared_model: LCOEmbedding) -> None:
    sound = {"array": tone(4.0), "sampling_rate": 16_000}
    inputs = [
        {"video": {**clip(), "audio": sound}},
        {"video": clip(seed=1)},
        "a text",
        {"audio": sound, "video": {**clip(seed=2), "audio": sound}, "text": "and a text"},
        {"image": noise(84, 84, 3), "audio": sound},
    ]
    heard = shared_model.encode(inputs, load_audio_from_video=True)
    alone = np.stack([shared_model.encode(value, load_audio_from_video=True) for value in inputs])
    np.testing.assert_allclose(heard, alone, atol=1e-5)
    unheard = shared_model.encode(inputs)
    assert np.abs(heard - unheard)[[0, 3]].max() > 1e-3, "the sound of a video changes nothing"
    np.testing.assert_allclose(heard[[1, 2, 4]], unheard[[1, 2, 4]], atol=1e-5)


def test_a_forward_pass_keeps_its_features(shared_model: LCOEmbedding) -> None:
    """The gradient-cached losses embed the same features a second time."""
    video = {**clip(), "audio": {"array": tone(4.0), "sampling_rate": 16_000}}
    settings = {"video": {"load_audio_from_video": True}}
    features = shared_model.preprocess([{"video": video}, "a text"], processing_kwargs=settings)
    with torch.inference_mode():
        kept = shared_model(features)
    assert kept["row_position_ids"] is features["row_position_ids"]


def test_silent_video_beside_a_heard_one_counts_as_silence(shared_model: LCOEmbedding) -> None:
    video = {**clip(seed=1), "audio": {"array": tone(4.0), "sampling_rate": 16_000}}
    silence = {"array": np.zeros(4 * 16_000, np.float32), "sampling_rate": 16_000}
    given = shared_model.encode({"video": [video, {**clip(), "audio": silence}]}, load_audio_from_video=True)
    absent = shared_model.encode({"video": [video, clip()]}, load_audio_from_video=True)
    np.testing.assert_allclose(absent, given, atol=1e-5)


def test_sound_track_of_a_file_equals_that_of_memory(shared_model: LCOEmbedding, samples: Path) -> None:
    from lco_embedding.modules import media

    path = samples / "clips" / "yellow_triangle_falls_while_a_tone_falls.mp4"
    decoded = media.load_video(path, media.Sampling(fps=1000, max_frames=1000), 10**9)
    in_memory = {
        "array": decoded.frames,
        "video_metadata": {"fps": decoded.fps},
        "audio": {"array": media.load_audio(path, 16_000), "sampling_rate": 16_000},
    }
    heard = shared_model.encode(path, load_audio_from_video=True)
    np.testing.assert_allclose(shared_model.encode({"video": in_memory}, load_audio_from_video=True), heard, atol=1e-5)
    assert np.abs(heard - shared_model.encode(path)).max() > 1e-3


def test_order_of_chat_content_is_kept(shared_model: LCOEmbedding) -> None:
    image, text = {"type": "image", "image": noise(84, 84, 3)}, {"type": "text", "text": "a word"}
    first = shared_model.encode([[{"role": "user", "content": [image, text]}]])
    second = shared_model.encode([[{"role": "user", "content": [text, image]}]])
    assert np.abs(first - second).max() > 1e-3
    as_dict = shared_model.encode([{"image": noise(84, 84, 3), "text": "a word"}])
    np.testing.assert_allclose(as_dict, first, atol=1e-6)


def test_prompt_becomes_a_system_message(shared_model: LCOEmbedding) -> None:
    prompted = shared_model.encode("a word", prompt="Represent the query.")
    chat = [
        {"role": "system", "content": "Represent the query."},
        {"role": "user", "content": [{"type": "text", "text": "a word"}]},
    ]
    np.testing.assert_allclose(prompted, shared_model.encode(chat), atol=1e-6)
    assert np.abs(prompted - shared_model.encode("a word")).max() > 1e-3


# --- the interface of Sentence Transformers -------------------------------------------------------------------------


def test_output_forms(shared_model: LCOEmbedding) -> None:
    inputs = ["a", noise(84, 84, 3), "b c d"]
    reference = shared_model.encode(inputs)
    assert reference.dtype == np.float32
    assert isinstance(shared_model.encode(inputs, convert_to_tensor=True), torch.Tensor)
    np.testing.assert_allclose(shared_model.encode(inputs, convert_to_tensor=True).numpy(), reference, atol=1e-6)
    listed = shared_model.encode(inputs, convert_to_numpy=False)
    np.testing.assert_allclose(torch.stack(listed).numpy(), reference, atol=1e-6)
    assert shared_model.encode("a").shape == (128,)
    assert shared_model.encode(inputs, truncate_dim=16).shape == (3, 16)
    np.testing.assert_allclose(shared_model.encode(inputs, truncate_dim=16), reference[:, :16], atol=1e-6)
    assert shared_model.encode(inputs, precision="int8").dtype == np.int8
    assert shared_model.encode([]).shape == (0, 128)
    np.testing.assert_allclose(shared_model.encode_query(inputs), reference, atol=1e-6)
    np.testing.assert_allclose(shared_model.encode(np.array(["a", "b c d"])), reference[[0, 2]], atol=1e-6)


def test_batches_of_any_container(shared_model: LCOEmbedding) -> None:
    import pandas

    inputs = ["a", "b c d"]
    expected = shared_model.encode(inputs)
    for batch in (tuple(inputs), pandas.Series(inputs, index=[7, 3]), iter(inputs), np.array(inputs, dtype=object)):
        np.testing.assert_allclose(shared_model.encode(batch), expected, atol=1e-6)
    np.testing.assert_allclose(shared_model.encode(sentences=inputs), expected, atol=1e-6)


def test_token_embeddings(shared_model: LCOEmbedding) -> None:
    inputs = ["a", "b c d e f g h"]
    tokens = shared_model.encode(inputs, output_value="token_embeddings")
    lengths = shared_model.preprocess(inputs)["attention_mask"].sum(1).tolist()
    assert [len(token) for token in tokens] == lengths
    last = torch.nn.functional.normalize(torch.stack([token[-1] for token in tokens]), dim=1)
    np.testing.assert_allclose(last.numpy(), shared_model.encode(inputs), atol=1e-5)
    everything = shared_model.encode(inputs, output_value=None)
    assert set(everything[0]) >= {"sentence_embedding", "token_embeddings", "input_ids"}


def test_worker_processes_give_the_same(shared_model: LCOEmbedding) -> None:
    inputs: list[Any] = [*mixed_inputs(), None, "missing.png"]
    pool = shared_model.start_multi_process_pool(["cpu", "cpu"])
    try:
        together = shared_model.encode(inputs, pool=pool, chunk_size=3, on_error="nan")
    finally:
        shared_model.stop_multi_process_pool(pool)
    np.testing.assert_allclose(together, shared_model.encode(inputs, on_error="nan"), atol=1e-5, equal_nan=True)


def test_modules_work_in_a_plain_sentence_transformer(thinker: Path, shared_model: LCOEmbedding) -> None:
    transformer = OmniTransformer(str(thinker))
    transformer.add_prompts()
    plain = SentenceTransformer(
        modules=[transformer, LastTokenPooling(transformer.get_embedding_dimension()), Normalize()], device="cpu"
    )
    inputs = mixed_inputs()
    np.testing.assert_allclose(plain.encode(inputs), shared_model.encode(inputs), atol=1e-5)
    # Sentence Transformers sorts before it makes batches, so that only the place in the batch is known.
    with pytest.raises(InputError, match=r"of this batch .*\n- input 0 \('gone\.png'\)"):
        plain.encode(["a", "gone.png"])


# --- errors ---------------------------------------------------------------------------------------------------------


def test_every_bad_input_is_listed_before_anything_is_computed(
    shared_model: LCOEmbedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.wav").touch()
    monkeypatch.setattr(LCOEmbedding, "forward", lambda *args: pytest.fail("a forward pass ran"))
    inputs = ["fine", None, {}, [], str(tmp_path / "text.png"), tmp_path / "empty.wav", 7, "https://host/cat.jpg"]
    with pytest.raises(InputError) as caught:
        shared_model.encode(inputs)
    assert [problem.index for problem in caught.value.problems] == [1, 2, 3, 4, 5, 6, 7]
    message = str(caught.value)
    for part in ("input 4 (image", "text.png", "input 5 (audio", "empty.wav", "not fetched", 'on_error="nan"'):
        assert part in message


def test_nan_rows_leave_the_rest_unharmed(
    shared_model: LCOEmbedding, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from PIL import Image

    path = tmp_path / "cut.png"
    Image.fromarray(noise(300, 300, 3)).save(path)
    path.write_bytes(path.read_bytes()[:20_000])  # the header is whole: only decoding shows it
    good = mixed_inputs()
    inputs = [*good[:3], path, None, *good[3:], np.full(16_000, np.nan, np.float32)]
    with caplog.at_level(logging.WARNING):
        logging.getLogger("lco_embedding").propagate = True
        embeddings = shared_model.encode(inputs, on_error="nan", batch_size=4)
    bad = [3, 4, len(inputs) - 1]
    assert np.isnan(embeddings[bad]).all()
    np.testing.assert_allclose(np.delete(embeddings, bad, axis=0), shared_model.encode(good), atol=1e-5)
    with pytest.raises(InputError, match=r"input 3 .*cut\.png"):
        shared_model.encode([*good[:3], path])


class Failing(dict):  # type: ignore[type-arg]
    """An input that fails when it is looked at."""

    def keys(self) -> Any:
        raise ZeroDivisionError("no keys today")


class FailingFile(io.BytesIO):
    """An open file that fails when it is read."""

    def read(self, *args: Any) -> bytes:
        raise KeyError("no bytes today")


class FailingDecoder:
    """A decoder of audio whose header is right and whose samples are not."""

    metadata = SimpleNamespace(duration_seconds_from_header=1.0)

    def get_all_samples(self) -> Any:
        raise TypeError("no samples today")


FAILING = [
    (Failing, "ZeroDivisionError: no keys today"),
    (FailingFile, "KeyError: 'no bytes today'"),
    (FailingDecoder, "TypeError: no samples today"),
]


@pytest.mark.parametrize(("kind", "reason"), FAILING)
def test_any_exception_of_one_item_costs_it_alone(shared_model: LCOEmbedding, kind: Any, reason: str) -> None:
    good = ["a red circle", {"image": noise(84, 84, 3)}]
    with pytest.raises(InputError, match=rf"input 1 .*{re.escape(reason)}"):
        shared_model.encode([good[0], kind(), good[1]])
    problems: list[Problem] = []
    embeddings = shared_model.encode([good[0], kind(), good[1]], on_error=problems.append)
    assert [(problem.index, reason in problem.reason) for problem in problems] == [(1, True)]
    assert np.isnan(embeddings[1]).all()
    np.testing.assert_allclose(embeddings[[0, 2]], shared_model.encode(good), atol=1e-5)


def test_a_chat_that_the_template_refuses_costs_itself_alone(model: LCOEmbedding) -> None:
    rule = "{%- if messages[0]['role'] == 'tool' -%}{{ raise_exception('no tools here') }}{%- endif -%}"
    model.processor.chat_template = rule + model.processor.chat_template
    bad = [{"role": "tool", "content": "7"}, {"role": "user", "content": "x"}]
    embeddings = model.encode(["x", bad], on_error="nan")
    assert np.isfinite(embeddings[0]).all()
    assert np.isnan(embeddings[1]).all()
    with pytest.raises(InputError, match=r"input 1 .*no tools here"):
        model.encode(["x", bad])


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_an_item_ends_the_call(
    shared_model: LCOEmbedding, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr(FailingDecoder, "get_all_samples", fail)
    with pytest.raises(error):
        shared_model.encode(["x", FailingDecoder()], on_error="nan")


def test_an_empty_text_is_an_input(
    shared_model: LCOEmbedding, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared_model.save_pretrained(tmp_path, create_model_card=False)
    texts = ["", "a red circle", "  \n", ""]
    with caplog.at_level(logging.WARNING):
        logging.getLogger("lco_embedding").propagate = True
        got = shared_model.encode([*texts, {"text": ""}])
    np.testing.assert_allclose(got[:4], SentenceTransformer(str(tmp_path), device="cpu").encode(texts), atol=1e-5)
    np.testing.assert_allclose(got[4], got[0], atol=1e-6)
    warnings = [record.message for record in caplog.records if "empty" in record.message]
    assert len(warnings) == 1
    assert warnings[0].startswith("4 input(s) are empty texts")


@pytest.mark.parametrize(("prompt", "reason"), [(3, "prompt must be a string, got 3"), ("\ud800", "not valid Unicode")])
def test_a_prompt_that_is_no_text_is_named(shared_model: LCOEmbedding, prompt: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        shared_model.encode(["x"], prompt=prompt)


def test_a_prompt_beyond_the_context_is_named(shared_model: LCOEmbedding) -> None:
    with pytest.raises(InputError, match=r"the prompt takes \d+ tokens, more than the context of 4096"):
        shared_model.encode(["x"], prompt="word " * 20_000)


def test_quantised_rows_can_not_be_nan(shared_model: LCOEmbedding) -> None:
    with pytest.raises(ValueError, match="can't hold NaN"):
        shared_model.encode(["a", None], on_error="nan", precision="int8")


def test_threads_do_not_disturb_each_other(shared_model: LCOEmbedding) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = shared_model.encode(["hello there"])
    long = ["word <|im_end|> " * 100] * 4

    def cut() -> None:
        for _ in range(10):
            shared_model.preprocess(long, processing_kwargs={"text": {"max_length": 50}})

    with ThreadPoolExecutor(2) as pool:
        cutting = [pool.submit(cut)]
        results = [pool.submit(shared_model.encode, ["hello there"]).result() for _ in range(20)]
        [future.result() for future in cutting]
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_saving_over_an_adapter_replaces_it(model: LCOEmbedding, thinker: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    tuned = LCOEmbedding(thinker, device="cpu")
    tuned.add_adapter(LoraConfig(r=4, target_modules=tuned.omni.backbone.lora_targets, init_lora_weights=False))
    tuned.save_pretrained(tmp_path, create_model_card=False)
    model.save_pretrained(tmp_path, create_model_card=False)
    model.save_pretrained(tmp_path, create_model_card=False)
    np.testing.assert_allclose(LCOEmbedding(tmp_path, device="cpu").encode("a"), model.encode("a"), atol=1e-6)


def test_problems_can_be_collected(shared_model: LCOEmbedding) -> None:
    problems: list[Any] = []
    embeddings = shared_model.encode(["a", None, np.full(16_000, np.inf, np.float32)], on_error=problems.append)
    assert [problem.index for problem in problems] == [1, 2]
    assert np.isnan(embeddings).all(axis=1).tolist() == [False, True, True]
    assert np.isnan(shared_model.encode([None], on_error="nan")).all()
    with pytest.raises(ValueError, match="on_error"):
        shared_model.encode(["a"], on_error="ignore")  # type: ignore[arg-type]


def test_hidden_states_that_are_not_finite_name_the_input(model: LCOEmbedding) -> None:
    token = model.tokenizer("Q", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.omni.model.get_input_embeddings().weight[token] = torch.inf
    with pytest.raises(FloatingPointError, match=r"input 1 \(text\)"):
        model.encode(["fine", "Q"])
    embeddings = model.encode(["fine", "Q", "fine"], on_error="nan")
    assert np.isnan(embeddings).all(axis=1).tolist() == [False, True, False]


def test_unknown_modality_of_a_backbone(checkpoints: Callable[[str], Path]) -> None:
    model = LCOEmbedding(checkpoints("qwen2_5_vl"), device="cpu")
    with pytest.raises(InputError, match=r"input 0 .*this model takes text, image, video, not audio"):
        model.encode([tone()])
    with pytest.raises(ValueError, match="does not hear audio"):
        model.encode([clip()], load_audio_from_video=True)


def test_wrong_settings_are_refused(shared_model: LCOEmbedding) -> None:
    with pytest.raises(ValueError, match="unknown processing_kwargs"):
        shared_model.encode("a", processing_kwargs={"images": {}})
    with pytest.raises(ValueError, match="fps of video must be positive"):
        shared_model.encode(clip(), processing_kwargs={"video": {"fps": 0}})
    with pytest.raises(ValueError, match="pixels of image must be positive"):
        shared_model.encode("a", processing_kwargs={"image": {"max_pixels": -1}})


# --- loading and saving ---------------------------------------------------------------------------------------------

STOCK = """
import sys, json, numpy as np
from sentence_transformers import SentenceTransformer
sys.path.insert(0, {home!r})
model = SentenceTransformer({path!r}, device="cpu")
assert not any(name.startswith("lco_embedding") for name in sys.modules), "our package was imported"
data = np.load({inputs!r})
inputs = ["a red circle.", data["image"], {{"image": data["image"], "text": "what?"}}]
kinds = model.modalities
if "audio" in kinds:
    inputs.append({{"array": data["audio"], "sampling_rate": 16000}})
if "video" in kinds:
    metadata = {{"fps": 8.0, "total_num_frames": 32, "duration": 4.0}}
    inputs.append({{"array": data["video"], "video_metadata": metadata}})
np.save({output!r}, model.encode(inputs))
"""


@pytest.mark.parametrize("name", ["thinker", "full_omni", "qwen2_5_vl", "llava_next"])
def test_saved_checkpoint_in_stock_sentence_transformers(
    name: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    model = LCOEmbedding(checkpoints(name), device="cpu")
    model.save_pretrained(tmp_path / "saved", create_model_card=False)
    data = {"image": noise(90, 120, 3), "audio": tone(1.2), "video": clip()["array"]}
    np.savez(tmp_path / "inputs.npz", **data)
    inputs: list[Any] = ["a red circle.", data["image"], {"image": data["image"], "text": "what?"}]
    inputs += [{"array": data["audio"], "sampling_rate": 16_000}] if "audio" in model.modalities else []
    inputs += [clip()] if "video" in model.modalities else []
    script = STOCK.format(
        home=str(Path(__file__).parent),
        path=str(tmp_path / "saved"),
        inputs=str(tmp_path / "inputs.npz"),
        output=str(tmp_path / "stock.npy"),
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    expected = model.encode(inputs)
    np.testing.assert_allclose(np.load(tmp_path / "stock.npy"), expected, atol=1e-5)
    np.testing.assert_allclose(LCOEmbedding(tmp_path / "saved", device="cpu").encode(inputs), expected, atol=1e-6)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == [model.omni.backbone.generation_class]
    types = [entry["type"] for entry in json.loads((tmp_path / "saved" / "modules.json").read_text())]
    assert all(entry.startswith("sentence_transformers.") for entry in types)
    assert (tmp_path / "saved" / "1_Pooling" / "config.json").is_file()
    assert not list((tmp_path / "saved").rglob("*.bin"))


@pytest.mark.parametrize("frames", [9, 16, 33, 59, 300])
def test_stock_sees_the_same_frames_of_any_video(model: LCOEmbedding, tmp_path: Path, frames: int) -> None:
    """Stock states another rate for them (docs/design.md), but what is seen is the same."""
    model.omni.processing_kwargs["video"]["size"] = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    model.save_pretrained(tmp_path, create_model_card=False)
    stock = SentenceTransformer(str(tmp_path), device="cpu").preprocess([clip(frames)])
    ours = model.preprocess([clip(frames)])
    for key in ("input_ids", "video_grid_thw", "pixel_values_videos"):
        assert torch.equal(ours[key], stock[key])
    seen = len(model.omni.reader()._seen(clip(frames), with_sound=False)["videos"][0])
    assert float(ours["video_second_per_grid"][0]) == pytest.approx(2 / (seen / frames * 8.0))


def test_saved_checkpoint_generates_as_its_base(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """The generation layout holds the language head of the base: what it would say is unchanged."""
    from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

    config = AutoConfig.from_pretrained(checkpoints("full_omni")).thinker_config
    base = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(checkpoints("full_omni"), config=config)
    LCOEmbedding(checkpoints("full_omni"), device="cpu").save_pretrained(tmp_path, create_model_card=False)
    saved = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.equal(saved(input_ids=ids).logits, base(input_ids=ids).logits)


def test_saving_outlives_the_source(
    checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from lco_embedding.modules import backbone_transformer

    shutil.copytree(checkpoints("full_omni"), tmp_path / "source")
    model = LCOEmbedding(tmp_path / "source", device="cpu")
    shutil.rmtree(tmp_path / "source")
    warnings: list[str] = []
    monkeypatch.setattr(backbone_transformer.logger, "warning", warnings.append)
    model.save_pretrained(tmp_path / "saved", create_model_card=False)
    assert len(warnings) == 1
    assert "without a language head" in warnings[0]
    np.testing.assert_allclose(LCOEmbedding(tmp_path / "saved", device="cpu").encode("a"), model.encode("a"), atol=1e-6)


def test_saved_with_custom_modules(model: LCOEmbedding, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, create_model_card=False, custom_modules=True)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path), device="cpu")
    loaded = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert isinstance(loaded[0], OmniTransformer)
    assert isinstance(loaded[1], LastTokenPooling)
    inputs = mixed_inputs()
    np.testing.assert_allclose(loaded.encode(inputs), model.encode(inputs), atol=1e-6)
    np.testing.assert_allclose(LCOEmbedding(tmp_path, device="cpu").encode(inputs), model.encode(inputs), atol=1e-6)


def test_settings_are_saved_and_loaded(thinker: Path, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "image": {"max_pixels": 56 * 56, "min_pixels": 28 * 28},
        "video": {"fps": 1.0, "max_frames": 2, "min_frames": 2, "max_pixels": 56 * 56, "min_pixels": 28 * 28},
    }
    model = LCOEmbedding(thinker, device="cpu", processing_kwargs=settings)
    inputs = [noise(200, 200, 3), clip()]
    features = model.preprocess(inputs)
    assert features["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert features["video_grid_thw"][0, 0] == 1
    assert features["video_grid_thw"][0, 1:].prod() <= 16
    model.save_pretrained(tmp_path, create_model_card=False)
    again = LCOEmbedding(tmp_path, device="cpu")
    assert again.omni.processing_kwargs == model.omni.processing_kwargs
    np.testing.assert_allclose(again.encode(inputs), model.encode(inputs), atol=1e-6)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path), device="cpu").encode(inputs[:1]), model.encode(inputs[:1]), atol=1e-5
    )


def test_named_chat_template(model: LCOEmbedding, tmp_path: Path) -> None:
    """Published checkpoints keep the prompts in a template of their own, chosen by the settings."""
    inputs = mixed_inputs()
    expected = model.encode(inputs)
    with_prompts = model.processor.chat_template
    model.processor.chat_template = {"default": architecture.CHAT_TEMPLATE, "sentence_transformers": with_prompts}
    model.omni.processing_kwargs["chat_template"]["chat_template"] = "sentence_transformers"
    model.save_pretrained(tmp_path, create_model_card=False)
    assert (tmp_path / "additional_chat_templates" / "sentence_transformers.jinja").is_file()
    np.testing.assert_allclose(LCOEmbedding(tmp_path, device="cpu").encode(inputs), expected, atol=1e-6)


def test_loading_a_saved_checkpoint_adds_no_second_prompt(model: LCOEmbedding, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, create_model_card=False)
    (tmp_path / "modules.json").unlink()  # as a trainer of transformers leaves it: template, but no modules
    np.testing.assert_allclose(LCOEmbedding(tmp_path, device="cpu").encode("a"), model.encode("a"), atol=1e-6)


def test_pickled_weights_are_never_written(model: LCOEmbedding, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only safetensors"):
        model.save_pretrained(tmp_path, safe_serialization=False)


@pytest.mark.parametrize("adapted", ["decoder", "decoder and towers"])
@pytest.mark.parametrize("trained_on", ["generation class", "part that embeds"])
def test_adapter_of_a_raw_backbone(trained_on: str, adapted: str, thinker: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniThinkerModel

    cls = Qwen2_5OmniThinkerForConditionalGeneration if trained_on == "generation class" else Qwen2_5OmniThinkerModel
    plain = LCOEmbedding(thinker, device="cpu")
    towers = r"|.*(visual\.blocks\.\d+\.attn\.q|audio_tower\.layers\.\d+\.fc1|visual\.merger\.mlp\.0)"
    targets = plain.omni.backbone.lora_targets + (towers if adapted != "decoder" else "")
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    tuned = get_peft_model(cls.from_pretrained(thinker), config)
    tuned.save_pretrained(tmp_path / "adapter")
    inputs = mixed_inputs()[:4]
    loaded = LCOEmbedding(tmp_path / "adapter", device="cpu")
    merged = tuned.merge_and_unload()
    before = plain.encode(inputs)
    plain.omni.model = merged.model if trained_on == "generation class" else merged
    np.testing.assert_allclose(loaded.encode(inputs), plain.encode(inputs), atol=1e-5)
    assert np.abs(before - plain.encode(inputs)).max() > 1e-3, "the adapter changes nothing"
    loaded.save_pretrained(tmp_path / "saved", create_model_card=False)
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    np.testing.assert_allclose(LCOEmbedding(tmp_path / "saved", device="cpu").encode(inputs), loaded.encode(inputs))


def test_an_adapter_that_does_not_fit_is_refused(thinker: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import Qwen2_5OmniThinkerModel

    tuned = get_peft_model(Qwen2_5OmniThinkerModel.from_pretrained(thinker), LoraConfig(target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    key = next(key for key in weights if "language_model" in key)
    save_file({**weights, key.replace("layers.0", "layers.77"): weights[key].clone()}, path)
    with pytest.raises(ValueError, match=r"1 weights for layers.*another backbone"):
        LCOEmbedding(tmp_path, device="cpu")
    save_file({name: tensor for name, tensor in weights.items() if name != key}, path)
    with pytest.raises(ValueError, match="1 weights are missing"):
        LCOEmbedding(tmp_path, device="cpu")


def test_adapter_of_a_saved_checkpoint(model: LCOEmbedding, tmp_path: Path) -> None:
    from peft import LoraConfig

    model.omni.processing_kwargs["image"]["size"]["longest_edge"] = 84 * 84
    model.save_pretrained(tmp_path / "base", create_model_card=False)
    tuned = LCOEmbedding(tmp_path / "base", device="cpu")
    config = LoraConfig(r=4, target_modules=tuned.omni.backbone.lora_targets, init_lora_weights=False)
    tuned.add_adapter(config)
    tuned.omni.model.save_pretrained(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir() if path.name != "README.md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded = LCOEmbedding(tmp_path / "adapter", device="cpu")
    assert loaded.omni.processing_kwargs == tuned.omni.processing_kwargs
    inputs = mixed_inputs()[:4]
    np.testing.assert_allclose(loaded.encode(inputs), tuned.encode(inputs), atol=1e-6)
    assert np.abs(loaded.encode(inputs) - model.encode(inputs)).max() > 1e-3


MEMORY = """
import resource, sys
from lco_embedding import LCOEmbedding
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
LCOEmbedding({path!r}, device="cpu").encode("warm up")
middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = LCOEmbedding({heavy!r}, device="cpu")
model.encode("a")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
names = [name for name, _ in model.named_parameters()]
assert not any(part in name for name in names for part in ("talker", "token2wav", "lm_head")), names
print((after - middle) * 1024)
"""


def test_talker_and_head_never_reach_memory(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """Beside a thinker of 5 MB, the file holds 400 MB of talker and language head that must stay on disk."""
    import shutil

    from safetensors.torch import load_file, save_file

    heavy = tmp_path / "heavy"
    shutil.copytree(checkpoints("full_omni"), heavy)
    weights = load_file(heavy / "model.safetensors")
    weights["thinker.lm_head.weight"] = torch.zeros(50_000, 1_000)
    weights["talker.model.embed_tokens.weight"] = torch.zeros(50_000, 1_000)
    save_file(weights, heavy / "model.safetensors", metadata={"format": "pt"})
    script = MEMORY.format(path=str(checkpoints("full_omni")), heavy=str(heavy))
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert int(output.split()[-1]) < 60e6


def test_dtype_and_truncate_dim_are_taken(thinker: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu", truncate_dim=32, model_kwargs={"dtype": torch.bfloat16})
    assert model.dtype == torch.bfloat16
    embeddings = model.encode(["a", noise(84, 84, 3)])
    assert embeddings.shape == (2, 32)
    full = LCOEmbedding(thinker, device="cpu").encode(["a", noise(84, 84, 3)])[:, :32]
    cosines = (embeddings * full).sum(1) / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(full, axis=1)
    assert cosines.min() > 0.999


@pytest.mark.parametrize("model_kwargs", [{"device_map": "cpu"}, {"attn_implementation": "eager"}])
def test_placement_and_attention_are_taken(
    thinker: Path, shared_model: LCOEmbedding, model_kwargs: dict[str, Any]
) -> None:
    model = LCOEmbedding(thinker, model_kwargs=model_kwargs)
    assert model.omni.config._attn_implementation == model_kwargs.get("attn_implementation", "sdpa")
    inputs = mixed_inputs()
    np.testing.assert_allclose(model.encode(inputs), shared_model.encode(inputs), atol=1e-5)


def test_unsupported_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert' is not supported; supported are: qwen2_5_omni"):
        LCOEmbedding(tmp_path)


def test_other_pooling_is_refused(model: LCOEmbedding, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, create_model_card=False)
    config = tmp_path / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace("lasttoken", "mean"))
    with pytest.raises(ValueError, match="asks for 'mean'"):
        LCOEmbedding(tmp_path)


def test_miniature_ships_and_embeds_all_kinds(samples: Path) -> None:
    model = LCOEmbedding.miniature(device="cpu")
    files = [path for folder in ("images", "sounds", "clips") for path in sorted((samples / folder).iterdir())]
    embeddings = model.encode(["a red circle", *files])
    assert embeddings.shape == (len(files) + 1, model.get_embedding_dimension())
    assert np.isfinite(embeddings).all()
    assert model.omni.backbone.model_type == "qwen2_5_omni_thinker"
