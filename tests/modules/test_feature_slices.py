"""Some rows of a batch are what these rows alone would be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lco_embedding import LCOEmbedding
from lco_embedding.modules.feature_slices import MEDIA_KEYS, slice_rows
from tests.conftest import clip, mixed_inputs, noise, tone

SOUND = {"array": tone(2.5), "sampling_rate": 16_000}
HEARD = {"video": {"load_audio_from_video": True}}

ROWS: list[Any] = [
    *mixed_inputs(),
    {"audio": [SOUND, {"array": tone(0.4), "sampling_rate": 16_000}], "text": "two sounds"},
    {"video": [{**clip(frames=8), "audio": SOUND}, clip(frames=8, seed=1)], "audio": SOUND},
]


@pytest.fixture(scope="module")
def start_id(shared_model: LCOEmbedding) -> int:
    return int(shared_model.omni.config.audio_start_token_id)


def alone(model: LCOEmbedding, start: int, stop: int, **settings: Any) -> dict[str, Any]:
    return model.preprocess(ROWS[start:stop], processing_kwargs=settings)


@pytest.mark.parametrize("settings", [{}, HEARD], ids=["unheard", "heard"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, len(ROWS)])
def test_slices_are_what_their_rows_alone_would_be(
    model: LCOEmbedding, start_id: int, size: int, side: str, settings: dict[str, Any]
) -> None:
    model.tokenizer.padding_side = side
    batch = alone(model, 0, len(ROWS), **settings)
    for start in range(0, len(ROWS), size):
        stop = min(start + size, len(ROWS))
        sliced = slice_rows(batch, start, stop, start_id)
        expected = alone(model, start, stop, **settings)
        hears = "row_position_ids" in batch
        assert hears == bool(settings)
        positions = sliced.pop("row_position_ids") if hears else None
        if "row_position_ids" in expected:
            torch.testing.assert_close(positions, expected.pop("row_position_ids"))
        for key, value in expected.items():
            found = sliced.pop(key)
            if key in ("input_features", "feature_attention_mask"):  # padded to the longest clip of the whole batch
                assert not found[..., value.shape[-1] :].any()
                found = found[..., : value.shape[-1]]
            torch.testing.assert_close(found, value, rtol=0, atol=0) if isinstance(value, Tensor) else None
        assert all(not counts.any() for counts in sliced.values()), f"left over: {list(sliced)}"


def test_a_slice_of_a_slice_is_a_slice(shared_model: LCOEmbedding, start_id: int) -> None:
    batch = alone(shared_model, 0, len(ROWS), **HEARD)
    twice = slice_rows(slice_rows(batch, 2, 10, start_id), 4, 8, start_id)
    once = slice_rows(batch, 6, 10, start_id)
    assert twice.keys() == once.keys()
    for key, value in once.items():
        torch.testing.assert_close(twice[key], value, rtol=0, atol=0) if isinstance(value, Tensor) else None


def test_halves_embed_as_the_whole(shared_model: LCOEmbedding, start_id: int) -> None:
    batch = alone(shared_model, 0, len(ROWS), **HEARD)
    half = len(ROWS) // 2
    parts = [slice_rows(batch, 0, half, start_id), slice_rows(batch, half, len(ROWS), start_id)]
    with torch.inference_mode():
        halves = torch.cat([shared_model(part)["sentence_embedding"] for part in parts])
        whole = shared_model(batch)["sentence_embedding"]
    torch.testing.assert_close(halves, whole, rtol=0, atol=1e-5)


def test_rows_without_media_carry_none(shared_model: LCOEmbedding, start_id: int) -> None:
    texts = slice_rows(shared_model.preprocess(["a", *ROWS, "b c"], processing_kwargs=HEARD), 0, 2, start_id)
    assert not {key for keys in MEDIA_KEYS.values() for key in keys} & texts.keys()
    assert texts["num_images_per_sample"].tolist() == [0, 0]
    assert texts["modality"] == "message"


def test_padding_that_no_row_needs_is_cut_off(shared_model: LCOEmbedding, start_id: int) -> None:
    batch = shared_model.preprocess(["a", "b c", "word " * 50])
    sliced = slice_rows(batch, 0, 2, start_id)
    assert sliced["attention_mask"].shape[1] == batch["attention_mask"][:2].sum(1).max() < batch["input_ids"].shape[1]
    assert batch["input_ids"].shape[1] == batch["attention_mask"][2].sum(), "the batch itself was changed"


def test_audios_are_counted_by_their_key_where_there_is_one(shared_model: LCOEmbedding) -> None:
    batch = shared_model.preprocess([{"audio": [SOUND, SOUND]}, "a", SOUND])
    with pytest.raises(ValueError, match=r"which audio is unknown: put num_audios_per_sample .* audio_start_token_id"):
        slice_rows(batch, 0, 2)
    batch["num_audios_per_sample"] = torch.tensor([2, 0, 1])
    assert [len(slice_rows(batch, 0, stop)["input_features"]) for stop in (1, 2, 3)] == [2, 2, 3]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (-1, 1), (1, 3), (2, 1)])
def test_rows_that_are_not_there_are_refused(shared_model: LCOEmbedding, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=rf"2 rows, none from {start} up to {stop}"):
        slice_rows(shared_model.preprocess(["a", "b"]), start, stop)


def test_features_that_fit_no_row_are_refused(shared_model: LCOEmbedding, start_id: int) -> None:
    batch = shared_model.preprocess(["a", noise(84, 84, 3)])
    with pytest.raises(ValueError, match=r"'extra' of shape \(3,\) has not one entry for each of 2 rows"):
        slice_rows({**batch, "extra": torch.zeros(3)}, 0, 1)
    with pytest.raises(ValueError, match="'image_grid_thw' has 1 entries, but the rows of the batch account for 2"):
        slice_rows({**batch, "num_images_per_sample": torch.tensor([1, 1])}, 0, 2)
    with pytest.raises(ValueError, match=r"which image is unknown: put num_images_per_sample into the batch$"):
        slice_rows({key: value for key, value in batch.items() if key != "num_images_per_sample"}, 0, 1)
    with pytest.raises(ValueError, match="'input_features' has 1 entries, but the rows of the batch account for 0"):
        slice_rows(shared_model.preprocess(["a", SOUND]), 0, 1, start_id + 1_000)
