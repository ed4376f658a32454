"""Rows of every storage are the same rows, and bad ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Audio, Dataset, Image

from lco_embedding import LCOEmbedding
from lco_embedding.data.datasets import check, find_row, open_data
from lco_embedding.data.json_lines import RowError
from lco_embedding.data.sides import input_of
from lco_embedding.training import contrastive
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


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


PAIR, TRIPLET = {"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d", "negative": "e"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("rows", [(PAIR, TRIPLET), (TRIPLET, PAIR), (TRIPLET, TRIPLET | {"negative_1": "f"})])
def test_rows_of_other_columns_than_the_first_are_named(rows: Any, streaming: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows[0], rows[0], rows[1], rows[0])
    with pytest.raises(RowError, match=r"rows\.jsonl:3 has .*, the first row .*: all rows need the same"):
        list(open_data(path, streaming))


def test_what_is_no_column_may_differ(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIR | {"id": None}, PAIR | {"source": "x"})
    assert open_data(path).column_names == ["anchor", "positive"]


def test_an_absent_negative_in_parquet_is_named(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    Dataset.from_list([PAIR | {"negative": None}, TRIPLET]).to_parquet(path)
    assert open_data(path).column_names == ["anchor", "positive", "negative"]
    with pytest.raises(RowError, match=r"rows\.parquet, row 0: negative"):
        check([path], shared_model.omni)


def test_configurations_are_named(tmp_path: Path) -> None:
    write(tmp_path / "pair" / "dev.jsonl", PAIR)
    write(tmp_path / "triplet" / "dev.jsonl", TRIPLET, TRIPLET)
    configs = [
        f"- config_name: {c}\n  data_files:\n  - split: dev\n    path: {c}/dev.jsonl" for c in ("pair", "triplet")
    ]
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    assert open_data(f"{tmp_path}:triplet:dev").column_names == ["anchor", "positive", "negative"]
    assert len(open_data(f"{tmp_path}:pair:dev")) == 1
    with pytest.raises(ValueError, match=r"has several configurations, \['pair', 'triplet'\]; name one, as .*:dev$"):
        open_data(f"{tmp_path}:dev")
    with pytest.raises(ValueError, match="expected NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT"):
        open_data("a:b:c:d")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet", "rows.csv"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no file .*{name}"):
        open_data(str(tmp_path / name))


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.json is neither JSON lines"):
        open_data(write(tmp_path / "rows.json", [PAIR]))


def test_an_error_from_a_worker_is_readable(thinker: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"anchor": "a", "positive": {"image": "nowhere.png"}}] * 2)
    options = {"dataloader_num_workers": 1}
    with pytest.raises(ValueError, match="can't be embedded") as caught:
        contrastive.train(arguments_for(thinker, tmp_path, **options), rows)
    assert len(str(caught.value).splitlines()) == 4


def test_files_of_one_name_have_figures_of_their_own(thinker: Path, tmp_path: Path) -> None:
    held_out = [
        write(tmp_path / part / "dev.jsonl", *({"anchor": f"{part} {n}", "positive": f"{n}"} for n in range(3)))
        for part in "ab"
    ]
    options = {"towers": "absent", "eval_data": held_out, "eval_retrieval": True, "max_steps": 1}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "cosine_ndcg@10"}
    rows = Dataset.from_list([PAIR] * 4)
    folder = contrastive.train(arguments_for(thinker, tmp_path / "out", **options), rows)
    figures = json.loads((folder / "training_record.json").read_text())["figures"]
    assert {f"eval_{name}_dev_{figure}" for name in "ab" for figure in ("loss", "cosine_ndcg@10")} <= figures.keys()
    mean = (figures["eval_a_dev_cosine_ndcg@10"] + figures["eval_b_dev_cosine_ndcg@10"]) / 2
    assert figures["eval_cosine_ndcg@10"] == pytest.approx(mean)
    assert not [name for name in figures if "dev_a_dev" in name]
    options["metric_for_best_model"] = "cosine_ndgc@10"
    with pytest.raises(ValueError, match=r"no figure 'cosine_ndgc@10'; there are a_dev_loss, .*cosine_ndcg@10"):
        contrastive.train(arguments_for(thinker, tmp_path / "out", **options), rows)
    known = contrastive.figures_of(held_out, True)
    assert {f"eval_{name}" for name in known} <= figures.keys()
