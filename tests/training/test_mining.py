"""Negatives are near to the anchor, farther than the positive by the margin, and none of the anchor's positives."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from lco_embedding import LCOEmbedding
from lco_embedding.data.datasets import open_data
from lco_embedding.data.json_lines import JsonLines
from lco_embedding.data.sides import SIDE, input_of
from lco_embedding.miniature.world import write
from lco_embedding.modules.inputs import InputError
from lco_embedding.training.mining import Mined, mine_file, mine_hard_negatives

ROW = {"anchor": "query", "positive": "answer"}


class Compass:
    """Embeds a text as the direction whose cosine with that of "query" is known; and remembers what it embedded."""

    device = torch.device("cpu")

    def __init__(self, **cosines: float) -> None:
        self.cosines = {"query": 1.0, **cosines}
        self.embedded: list[str] = []

    def encode(self, inputs: Any, /, **kwargs: Any) -> NDArray[np.float64]:
        self.options = kwargs
        texts = [entry["text"] for entry in inputs]
        self.embedded += texts
        cosines = np.array([self.cosines[text] for text in texts])
        # Not of unit length: what a search compares are directions.
        return 3 * np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)


def texts_of(mined: Sequence[Sequence[Mapping[str, str]]]) -> list[list[str]]:
    return [[side["text"] for side in sides] for sides in mined]


def mine_texts(model: Compass, corpus: Sequence[str] = (), rows: Any = (ROW,), **options: Any) -> list[list[str]]:
    return texts_of(mine_hard_negatives(model, rows, corpus, **options))


# --- which are taken --------------------------------------------------------------------------------------------------

NEAR = {"answer": 0.8, "above": 0.8 * 0.95 + 1e-4, "below": 0.8 * 0.95 - 1e-4, "far": 0.1, "against": -0.5}


def test_a_candidate_nearer_than_95_percent_of_the_positive_is_left_out():
    found = mine_texts(Compass(**NEAR), list(NEAR), num_negatives=4)
    assert found == [["below", "far", "against"]]


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(None, ["above", "below"]), (0.0, ["above", "below"]), (0.5, ["far", "against"]), (1.7, [])],
)
def test_the_margin_is_a_share_of_the_positive(margin: float | None, expected: list[str]):
    assert mine_texts(Compass(**NEAR), list(NEAR), num_negatives=2, relative_margin=margin) == [expected]


def test_a_margin_lies_below_a_positive_of_negative_cosine():
    model = Compass(answer=-0.4, above=-0.41, below=-0.43)
    assert mine_texts(model, ["above", "below"], num_negatives=2) == [["below"]]


def test_of_several_positives_the_farthest_counts_and_none_is_a_negative():
    rows = [ROW, {"anchor": "query", "positive": "other"}, ROW]
    model = Compass(answer=0.9, other=0.6, between=0.7, below=0.5)
    assert mine_texts(model, ["between", "below", "answer"], rows, num_negatives=2) == [["below"]] * 3
    found = mine_texts(model, ["between", "below"], rows, num_negatives=3, relative_margin=None)
    assert found == [["between", "below"]] * 3


def test_an_anchor_is_not_its_own_negative():
    rows = [ROW, {"anchor": "answer", "positive": "query"}]
    model = Compass(answer=0.8, other=0.1)
    found = mine_texts(model, ["query", "answer", "other"], rows, num_negatives=3, relative_margin=None)
    assert found == [["other"], ["other"]]


def test_what_the_rows_hold_is_among_the_candidates():
    rows = [
        {**ROW, "negative": "given", "negative_2": {"text": ""}},
        {"anchor": "question", "positive": "reply"},
    ]
    model = Compass(answer=0.9, given=0.5, question=0.2, reply=0.3)
    assert mine_texts(model, [], rows, num_negatives=5) == [["given", "reply"], ["answer"]]


def test_the_nearest_are_passed_over_from_range_min():
    model = Compass(**NEAR)
    assert mine_texts(model, list(NEAR), num_negatives=2, range_min=1) == [["far", "against"]]
    assert mine_texts(model, list(NEAR), num_negatives=1, range_max=1, relative_margin=None) == [["above"]]
    # Beyond range_max nothing is looked at, so that the margin may leave none.
    crowd = {f"near_{number}": 0.79 for number in range(4)}
    assert mine_texts(Compass(**NEAR, **crowd), [*NEAR, *crowd], num_negatives=1, range_max=2) == [[]]


def test_random_choice_is_seeded_and_within_range():
    model = Compass(answer=0.9, **{f"n{number}": 0.8 - 0.01 * number for number in range(20)})
    options = {"num_negatives": 2, "range_max": 10, "sampling_strategy": "random"}
    state = random.getstate()
    drawn = [mine_texts(model, list(model.cosines), seed=seed, **options)[0] for seed in range(8)]
    again = [mine_texts(model, list(model.cosines), seed=seed, **options)[0] for seed in range(8)]
    assert random.getstate() == state
    assert drawn == again
    assert len({tuple(texts) for texts in drawn}) > 3
    assert {text for texts in drawn for text in texts} <= {f"n{number}" for number in range(10)}


def test_each_side_is_embedded_once():
    rows = [ROW, {"anchor": "answer", "positive": "query"}, {"anchor": {"text": "query"}, "positive": "far"}]
    model = Compass(**NEAR)
    mine_hard_negatives(model, rows, ["far", {"text": "far", "image_path": ""}, "below", "answer"], batch_size=7)
    assert sorted(model.embedded) == ["answer", "below", "far", "query"]
    assert model.options == {"batch_size": 7}


def test_blocks_of_the_search_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    cosines = {f"{number}": float(value) for number, value in enumerate(rng.uniform(-1, 1, 60))}
    rows = [{"anchor": f"{number}", "positive": f"{number + 1}"} for number in range(0, 40, 2)]
    whole = mine_texts(Compass(**cosines), list(cosines), rows, num_negatives=3)
    monkeypatch.setattr("lco_embedding.training.mining.SCORES_AT_ONCE", 130)
    assert mine_texts(Compass(**cosines), list(cosines), rows, num_negatives=3) == whole
    assert any(whole)


@pytest.mark.parametrize(
    ("rows", "corpus", "error", "message"),
    [
        ([], ["far"], ValueError, "there are no rows"),
        ([{"anchor": "", "positive": "answer"}], [], ValueError, "the anchor of row 0 is empty"),
        ([ROW, {"anchor": "query", "positive": {"text": ""}}], [], ValueError, "the positive of row 1 is empty"),
        ([ROW], [{"text": "far", "pdf": "x"}], TypeError, "side 0 of the corpus must be a text or an object of"),
        ([ROW], ["far", 3], TypeError, "side 1 of the corpus must be .*got 3"),
        ([ROW], ["nan"], ValueError, "1 embedding.* not finite, the first of .*nan"),
    ],
)
def test_bad_data_is_named(rows: Any, corpus: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        mine_hard_negatives(Compass(**NEAR, nan=math.nan), rows, corpus)


@pytest.mark.parametrize(
    "options",
    [{"num_negatives": 0}, {"range_min": -1}, {"range_min": 5, "range_max": 5}, {"sampling_strategy": "nearest"}],
)
def test_bad_options_are_told_before_anything_is_embedded(options: dict[str, Any]):
    model = Compass(**NEAR)
    with pytest.raises(ValueError, match=next(iter(options))):
        mine_hard_negatives(model, [ROW], list(NEAR), **options)
    assert not model.embedded


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def miniature() -> LCOEmbedding:
    return LCOEmbedding.miniature(device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"image": 10, "sound": 5, "clip": 5, "document": 5}
    return write(tmp_path_factory.mktemp("world"), "train", counts, seed=0)  # type: ignore[arg-type]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def sides(path: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_world_of_all_media_is_mined(miniature: LCOEmbedding, world: Path, tmp_path: Path):
    output = tmp_path / "deep" / "mined.jsonl"
    mined = mine_file(miniature, world / "index.jsonl", output, num_negatives=2)
    rows = sides(output)
    assert mined.rows == len(sides(world / "index.jsonl")) == 25
    assert mined.written == len(rows)
    assert 25 - mined.without <= mined.written <= 2 * (25 - mined.without)
    assert mined.written > 20
    assert {tuple(side) for row in rows for side in row.values()} == {
        ("text", "image_path", "audio_path", "video_path")
    }
    paths = [side[key] for row in rows for side in row.values() for key in SIDE if key != "text" and side[key]]
    assert {Path(path).suffix for path in paths} == {".png", ".flac", ".mp4"}
    assert all(not os.path.isabs(path) and (output.parent / path).is_file() for path in paths)

    def key(side: Mapping[str, str]) -> str:
        kept = {name: value for name, value in side.items() if value}
        return json.dumps({k: v if k == "text" else os.path.realpath(v) for k, v in sorted(kept.items())})

    given = open_data(str(world / "index.jsonl"))
    pairs = {(key(row["anchor"]), key(row["positive"])) for row in given}
    candidates = {key(row[name]) for row in given for name in ("positive", "negative")}
    for row in open_data(str(output)):
        anchor, positive, negative = (key(row[name]) for name in ("anchor", "positive", "negative"))
        assert (anchor, positive) in pairs
        assert (anchor, negative) not in pairs
        assert negative in candidates - {anchor}
        embeddings = miniature.encode([input_of(row[name]) for name in ("anchor", "positive", "negative")])
        similarities = (embeddings[:1] @ embeddings[1:].T)[0]
        assert similarities[1] <= similarities[0] - 0.05 * abs(similarities[0]) + 1e-4


def test_paths_move_with_the_file_and_equal_files_are_one_side(
    miniature: LCOEmbedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (56, 56), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "lists").mkdir()
    data = write_lines(tmp_path / "data.jsonl", [{"anchor": "red", "positive": {"image_path": "0.png"}}])
    pages = [*({"image_path": f"../{number}.png"} for number in range(3)), "blue"]
    corpus = write_lines(tmp_path / "lists" / "corpus.jsonl", pages)
    monkeypatch.chdir(tmp_path / "lists")
    mined = mine_file(miniature, "../data.jsonl", "mined.jsonl", "corpus.jsonl", num_negatives=3, relative_margin=None)
    assert mined == Mined(rows=1, written=3, without=0)
    rows = sides(tmp_path / "lists" / "mined.jsonl")
    assert {row["positive"]["image_path"] for row in rows} == {"../0.png"}
    negatives = {row["negative"]["image_path"] or row["negative"]["text"] for row in rows}
    assert negatives == {"../1.png", "../2.png", "blue"}
    assert data.is_file()
    assert corpus.is_file()


def test_a_tuple_holds_all_negatives_or_is_left_out(tmp_path: Path):
    rows = [ROW, {"anchor": "question", "positive": "reply"}]
    data = write_lines(tmp_path / "data.jsonl", rows)
    model = Compass(answer=0.9, question=-0.9, reply=-0.95, far=0.2)
    tuples = mine_file(model, data, tmp_path / "tuples.jsonl", output_format="n-tuple", num_negatives=1)
    assert tuples == Mined(rows=2, written=2, without=0)
    corpus = write_lines(tmp_path / "corpus.jsonl", ["far", "query"])
    options = {"num_negatives": 2, "corpus": corpus, "relative_margin": 0.05}
    tuples = mine_file(model, data, tmp_path / "two.jsonl", output_format="n-tuple", **options)
    triplets = mine_file(model, data, tmp_path / "triplets.jsonl", **options)
    assert tuples == Mined(rows=2, written=2, without=0)
    assert triplets == Mined(rows=2, written=4, without=0)
    options["num_negatives"] = 3
    tuples = mine_file(model, data, tmp_path / "three.jsonl", output_format="n-tuple", **options)
    assert tuples == Mined(rows=2, written=1, without=1)
    (row,) = open_data(str(tmp_path / "three.jsonl"))
    assert [row[name]["text"] for name in row] == ["question", "reply", "far", "answer", "query"]
    none = mine_file(model, data, tmp_path / "none.jsonl", relative_margin=5)
    assert none == Mined(rows=2, written=0, without=2)
    assert (tmp_path / "none.jsonl").read_text() == ""


def test_links_are_left_as_they_are(tmp_path: Path):
    class Blind(Compass):
        def encode(self, inputs: Any, /, **kwargs: Any) -> NDArray[np.float64]:
            return np.eye(len(inputs))

    url, inline = "https://example.org/a.png", "data:image/png;base64,AAAA"
    rows = [{"anchor": {"image_path": url}, "positive": {"image_path": inline}}]
    data = write_lines(tmp_path / "data.jsonl", rows)
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"text": "https://example.org"}])
    mine_file(Blind(), data, tmp_path / "mined.jsonl", corpus, relative_margin=None)
    (row,) = sides(tmp_path / "mined.jsonl")
    assert (row["anchor"]["image_path"], row["positive"]["image_path"]) == (url, inline)
    assert row["negative"]["text"] == "https://example.org"


def test_nothing_is_overwritten_and_the_format_is_known(tmp_path: Path):
    data = write_lines(tmp_path / "data.jsonl", [ROW])
    with pytest.raises(FileExistsError, match=r"data\.jsonl is there"):
        mine_file(Compass(**NEAR), data, data)
    with pytest.raises(ValueError, match="must be 'triplet' or 'n-tuple', got 'pairs'"):
        mine_file(Compass(**NEAR), data, tmp_path / "mined.jsonl", output_format="pairs")  # type: ignore[arg-type]


def test_files_that_are_missing_are_named(miniature: LCOEmbedding, tmp_path: Path):
    data = write_lines(tmp_path / "data.jsonl", [{"anchor": "red", "positive": {"image_path": "gone.png"}}])
    with pytest.raises(InputError, match=r"gone\.png"):
        mine_file(miniature, data, tmp_path / "mined.jsonl")
    assert not (tmp_path / "mined.jsonl").exists()
    assert len(JsonLines(data)) == 1
