"""The module between inputs and hidden states: limits, settings, hard inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel

from lco_embedding import InputError, LCOEmbedding
from lco_embedding.modules.backbones import BACKBONES
from tests.conftest import clip, noise, tone

ENDING = "\nSummarize the above{} in one word:<|im_end|>\n<|im_start|>assistant\n"


def decoded(model: LCOEmbedding, value: Any, **kwargs: Any) -> str:
    ids = model.preprocess([value], **kwargs)["input_ids"][0]
    return str(model.tokenizer.decode(ids))


# --- text limits ----------------------------------------------------------------------------------------------------


def test_text_is_cut_before_the_prompt(shared_model: LCOEmbedding) -> None:
    text = "".join(f"{number} " for number in range(400))
    short = decoded(shared_model, text, processing_kwargs={"text": {"max_length": 30}})
    assert short.endswith(ENDING.format(" text"))
    content = short.split("user\n")[1].removesuffix(ENDING.format(" text"))
    assert text.startswith(content)
    assert 28 <= len(shared_model.tokenizer(content)["input_ids"]) <= 30
    assert short == decoded(shared_model, text, max_length=30)


def test_prompts_are_not_cut(shared_model: LCOEmbedding) -> None:
    limit = {"text": {"max_length": 5}}
    rendered = decoded(shared_model, "word " * 50, prompt="Represent the query for retrieval.", processing_kwargs=limit)
    assert rendered.startswith("<|im_start|>system\nRepresent the query for retrieval.<|im_end|>")
    assert "<|im_start|>user\nw" in rendered


def test_max_seq_length_bounds_the_whole_chat(model: LCOEmbedding, tmp_path: Path) -> None:
    model.max_seq_length = 120
    ids = model.preprocess(["word " * 500])["input_ids"]
    assert 115 <= ids.shape[1] <= 120
    assert model.tokenizer.decode(ids[0]).endswith(ENDING.format(" text"))
    model.save_pretrained(tmp_path, create_model_card=False)
    again = LCOEmbedding(tmp_path, device="cpu")
    assert again.max_seq_length == 120
    assert again.preprocess(["word " * 500])["input_ids"].shape[1] == ids.shape[1]


def test_media_are_never_cut(model: LCOEmbedding) -> None:
    whole = model.preprocess([{"image": noise(84, 84, 3), "text": "word " * 50}])["input_ids"]
    model.max_seq_length = 90
    ids = model.preprocess([{"image": noise(84, 84, 3), "text": "word " * 500}])["input_ids"]
    image_id = model.processor.image_token_id
    assert (ids == image_id).sum() == (whole == image_id).sum() > 0
    assert model.tokenizer.decode(ids[0]).endswith(ENDING.format(""))
    assert model.encode({"image": noise(84, 84, 3), "text": "word " * 500}).shape == (128,)


def test_one_warning_counts_the_cut_inputs(
    shared_model: LCOEmbedding, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lco_embedding import encoding

    monkeypatch.setattr(encoding.logger, "propagate", True)
    messages: list[str] = []
    monkeypatch.setattr(encoding.logger, "warning", messages.append)
    inputs = ["short", "long " * 60, "longer " * 90, noise(84, 84, 3)]
    with caplog.at_level(logging.WARNING):
        shared_model.encode(inputs, batch_size=1, processing_kwargs={"text": {"max_length": 20}})
    assert messages == ["The text of 2 input(s) is longer than the limit and was cut before the prompt."]
    messages.clear()
    shared_model.encode(inputs)
    assert messages == []


def test_media_beyond_the_context_are_refused(model: LCOEmbedding) -> None:
    model.omni.config.get_text_config().max_position_embeddings = 60
    with pytest.raises(InputError, match=r"input 1 .*media take \d+ tokens, more than the context of 60"):
        model.encode(["a", noise(168, 168, 3)])


# --- settings -------------------------------------------------------------------------------------------------------


def test_images_are_capped(checkpoints: Callable[[str], Path]) -> None:
    model = LCOEmbedding(checkpoints("thinker"), device="cpu")
    model.processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 16_384 * 28 * 28}
    from lco_embedding.modules.processing_settings import with_defaults

    settings = with_defaults({}, model.processor, model.omni.backbone)
    assert settings["image"]["size"] == {"shortest_edge": 28 * 28, "longest_edge": 1280 * 28 * 28}
    model.omni.processing_kwargs = settings
    grid = model.preprocess([noise(3000, 2000, 3)])["image_grid_thw"][0]
    assert 1000 < grid.prod() // 4 <= 1280
    small = model.preprocess([noise(3000, 2000, 3)], processing_kwargs={"image": {"max_pixels": 100 * 28 * 28}})
    assert small["image_grid_thw"][0].prod() // 4 <= 100


def test_frames_of_a_video_are_sampled_at_their_true_rate(shared_model: LCOEmbedding) -> None:
    def grid(value: Any, **video: Any) -> tuple[int, float]:
        features = shared_model.preprocess([value], processing_kwargs={"video": video} if video else None)
        return int(features["video_grid_thw"][0, 0]), float(features["video_second_per_grid"][0])

    assert grid(clip(frames=32, fps=8.0)) == (4, 1.0)  # 4 s at 2 frames a second, joined two by two
    assert grid(clip(frames=32, fps=8.0), fps=4.0) == (8, 0.5)
    assert grid(clip(frames=32, fps=8.0), max_frames=4) == (2, 2.0)
    assert grid(clip(frames=8, fps=8.0)) == (2, 0.5)  # 1 s, of which at least 4 frames are seen
    small = {"max_pixels": 28 * 28, "min_pixels": 28 * 28}
    assert grid(clip(frames=400, fps=2.0), **small) == (32, pytest.approx(400 / 64))
    assert grid(noise(6, 60, 90, 3)) == (3, 1.0)  # frames without a rate count as sampled already


def test_frame_rates_of_one_input_are_their_own(shared_model: LCOEmbedding) -> None:
    features = shared_model.preprocess([{"video": [clip(frames=32, fps=8.0), clip(frames=8, fps=8.0)]}])
    assert features["video_second_per_grid"].tolist() == [1.0, 0.5]


# --- hard inputs ----------------------------------------------------------------------------------------------------


def test_long_audio_is_refused_unless_it_may_be_cut(shared_model: LCOEmbedding) -> None:
    wave = {"array": np.tile(tone(1.0, rate=1_000), 301), "sampling_rate": 1_000}
    with pytest.raises(InputError, match=r"input 1 .*301\.0 s of audio are longer than the 300 s"):
        shared_model.encode(["a", wave])
    cut = shared_model.encode(wave, processing_kwargs={"audio": {"truncation": True}})
    exact = shared_model.encode({"array": wave["array"][:300_000], "sampling_rate": 1_000})
    assert float(cut @ exact) > 0.9999


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros(10, np.float32), "10 samples of audio are too short"),
        (np.zeros(0, np.float32), "no audio"),
        (np.array([0.1, np.nan] * 8_000, np.float32), "NaN or infinite"),
        (np.array([0.1, np.inf] * 8_000, np.float32), "NaN or infinite"),
        (Image.new("RGB", (4000, 10)), "4000 x 10 pixels are longer than 200 to 1"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no pixels"),
        ({"array": [], "video_metadata": {}}, "no frames"),
        (np.full((8, 8, 3), np.nan), "not all finite"),
    ],
)
def test_hard_inputs_are_named(shared_model: LCOEmbedding, value: Any, reason: str) -> None:
    with pytest.raises(InputError, match="(?s)- input 1 .*" + reason):
        shared_model.encode(["a", value, noise(84, 84, 3)])
    embeddings = shared_model.encode(["a", value, noise(84, 84, 3)], on_error="nan")
    assert np.isnan(embeddings).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(16_000, np.float32),
        Image.new("RGB", (1, 1)),
        Image.new("CMYK", (30, 30)),
        Image.fromarray(np.full((30, 30), 40_000, np.uint16)),
        noise(1, 60, 60, 3),
        {"audio": np.zeros(700, np.float32)},
        {"array": np.stack([tone(0.5, rate=44_100)] * 2), "sampling_rate": 44_100},
        "\U000f0000",
        "\x00 \ufffd \u202e",
        "🎈",
    ],
    ids=range(10),
)
def test_odd_inputs_are_embedded(shared_model: LCOEmbedding, value: Any) -> None:
    assert np.isfinite(shared_model.encode(value)).all()


# --- backbones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.model_type)
def test_records_match_the_models(backbone: Any, checkpoints: Callable[[str], Path]) -> None:
    import re

    import transformers

    name = {"qwen2_5_omni_thinker": "thinker"}.get(backbone.model_type, backbone.model_type)
    model = AutoModel.from_pretrained(checkpoints(name))
    assert hasattr(transformers, backbone.generation_class)
    for path in (backbone.decoder, *backbone.towers):
        assert sum(parameter.numel() for parameter in model.get_submodule(path).parameters()) > 0
    covered = {path.split(".")[0] for path in (backbone.decoder, *backbone.towers)}
    left_over = {key.split(".")[0] for key, _ in model.named_parameters()} - covered
    assert left_over <= {"image_newline"}
    adapted = [key for key, module in model.named_modules() if re.fullmatch(backbone.lora_targets, key)]
    assert len(adapted) == 7 * model.config.get_text_config().num_hidden_layers
    assert all(isinstance(model.get_submodule(key), torch.nn.Linear) for key in adapted)
    assert all(key.startswith(backbone.decoder) for key in adapted)
