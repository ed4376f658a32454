"""Rows of every storage are the same rows, and bad ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Audio, Dataset, Image

from lco_embedding import LCOEmbedding
from lco_embedding.json_lines import RowError
from lco_embedding.sides import input_of
from lco_embedding.training import contrastive
from lco_embedding.training.examples import check, find_row, open_data
from lco_embedding.training.trainer import SideCollator
from tests.training.test_contrastive import arguments_for

TEXTS = ["a red circle", "a voice", "a star", "seven"]


@pytest.fixture
def bytes_of(samples: Path) -> dict[str, bytes]:
    return {
        "image": (samples / "images" / "red_circle.png").read_bytes(),
        "audio": (samples / "sounds" / "voice_seven.wav").read_bytes(),
    }


def stored(kind: str, home: Path, content: dict[str, bytes]) -> str:
    """Write a data set of texts with images and sounds in one of the storages, and return its name."""
    images = [{"bytes": content["image"], "path": None}] * 4
    sounds = [{"bytes": content["audio"], "path": None}] * 4
    dataset = Dataset.from_dict({"negative": sounds, "anchor": TEXTS, "positive": images})
    # As others would have written it: media are to be decoded.
    dataset = dataset.cast_column("positive", Image()).cast_column("negative", Audio())
    if kind == "folder":
        dataset.save_to_disk(home / "saved")
        return str(home / "saved")
    (home / "repository").mkdir()
    path = home / ("rows.parquet" if kind == "parquet" else "repository/train.parquet")
    dataset.to_parquet(path)
    return str(path if kind == "parquet" else path.parent)


@pytest.mark.parametrize("kind", ["parquet", "folder", "repository"])
def test_bytes_of_media_train_from_every_storage(
    kind: str, thinker: Path, tmp_path: Path, bytes_of: dict[str, bytes]
) -> None:
    """A folder of parquet files is read as a repository of the Hub is, by the same call."""
    name = stored(kind, tmp_path, bytes_of)
    dataset = open_data(name)
    assert dataset.column_names == ["anchor", "positive", "negative"]
    assert dataset[1]["positive"]["bytes"] == bytes_of["image"]
    folder = contrastive.train(arguments_for(thinker, tmp_path / "out", data=[name], max_steps=1, logging_steps=1))
    record = json.loads((folder / "training_record.json").read_text())
    assert record["rows"] == 4
    assert record["losses"][0]["loss"] > 0
    if kind == "parquet":
        streamed = open_data(name, streaming=True)
        assert next(iter(streamed))["negative"]["bytes"] == bytes_of["audio"]


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_a_bad_medium_is_named_by_its_row(
    kind: str, shared_model: LCOEmbedding, tmp_path: Path, bytes_of: dict[str, bytes]
) -> None:
    name = stored(kind, tmp_path, {**bytes_of, "image": bytes_of["image"][:10]})
    with pytest.raises(RowError, match=rf"{Path(name).name}, row 0: positive"):
        check([name], shared_model.omni)


def test_what_only_decoding_shows_is_named_by_its_row(
    shared_model: LCOEmbedding, tmp_path: Path, samples: Path, bytes_of: dict[str, bytes]
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(bytes_of["image"][:-60])
    rows = [{"anchor": text, "positive": {"text": "", "image_path": "cut.png"}} for text in TEXTS[:1]]
    rows.insert(0, {"anchor": "before", "positive": {"image_path": str(samples / "images" / "red_circle.png")}})
    data = tmp_path / "rows.jsonl"
    data.write_text("\n\n".join(map(json.dumps, rows)))
    check([str(data)], shared_model.omni)
    dataset = open_data(str(data))
    collate = SideCollator(shared_model.preprocess, paths=[str(data)])
    with pytest.raises(RowError, match=r"rows\.jsonl:3: image .*cut\.png"):
        collate([dataset[0], dataset[1]])
    name = stored("parquet", tmp_path, {**bytes_of, "image": bytes_of["image"][:-60]})
    with pytest.raises(RowError, match=r"rows\.parquet, row 0: image"):
        SideCollator(shared_model.preprocess, paths=[str(data), name])(open_data(name).select(range(2)).to_list())


def test_paths_in_parquet_are_relative_to_it(tmp_path: Path, samples: Path, shared_model: LCOEmbedding) -> None:
    (tmp_path / "a.png").write_bytes((samples / "images" / "red_circle.png").read_bytes())
    sides = [{"text": "", "image_path": "a.png"}, {"text": "only text", "image_path": None}]
    Dataset.from_dict({"anchor": TEXTS[:2], "positive": sides}).to_parquet(tmp_path / "rows.parquet")
    dataset = open_data(str(tmp_path / "rows.parquet"))
    assert [input_of(row["positive"]) for row in dataset] == [
        {"image": str(tmp_path / "a.png")},
        {"text": "only text"},
    ]
    check([str(tmp_path / "rows.parquet")], shared_model.omni)


def test_several_storages_are_weighed_in_one_run(thinker: Path, tmp_path: Path, bytes_of: dict[str, bytes]) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"anchor": text, "positive": text}) for text in TEXTS))
    name = stored("parquet", tmp_path, bytes_of)
    options: dict[str, Any] = {"data": [str(lines), name], "weights": [2.0, 0.5], "max_steps": -1}
    folder = contrastive.train(
        arguments_for(thinker, tmp_path / "out", num_train_epochs=1, **options, per_device_train_batch_size=2)
    )
    record = json.loads((folder / "training_record.json").read_text())
    assert record["steps"] == 4 + 1
    assert record["arguments"]["weights"] == [2.0, 0.5]
    assert record["data"] == ["lines.jsonl", "rows.parquet"]


def test_sides_drop_what_is_absent() -> None:
    array = torch.zeros(3, 4, 4)
    assert input_of({"text": "", "image": array, "audio": None})["image"] is array
    assert list(input_of({"text": "a", "image_path": "b.png", "audio_path": ""})) == ["image", "text"]
    assert list(input_of({"text": "a", "image": "b.png"})) == ["text", "image"]
    assert input_of({"bytes": b"", "path": None}) == {"bytes": b"", "path": None}


def test_a_row_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"anchor": text, "positive": text}) for text in TEXTS))
    assert find_row([str(path)], open_data(str(path))[2]) == f"{path}:3"
    assert find_row([str(path)], {"anchor": "other", "positive": "other"}) is None
