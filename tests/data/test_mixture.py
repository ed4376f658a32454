"""Weights of data sets, and rows of files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from lco_embedding.data.datasets import open_mixture
from lco_embedding.data.json_lines import JsonLines, RowError
from lco_embedding.data.mixture import Mixture


def test_a_weight_is_how_often_an_epoch_passes_through() -> None:
    mixture = Mixture([list("abcd"), list("wxyz")], [2.0, 0.5], seed=1)
    counts = Counter(mixture[index] for index in range(len(mixture)))
    assert all(counts[letter] == 2 for letter in "abcd")
    assert sum(counts[letter] for letter in "wxyz") == 2
    assert max(counts[letter] for letter in "wxyz") == 1
    assert [mixture[index] for index in range(10)] == [
        Mixture([list("abcd"), list("wxyz")], [2.0, 0.5], 1)[i] for i in range(10)
    ]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, 0.01]])
def test_weights_that_leave_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Mixture([list("abcd"), list("wxyz")], weights)


def test_rows_of_a_file_are_named_and_their_paths_resolved(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    content = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "b.png"}]
    path.write_text(json.dumps({"messages": [{"role": "user", "content": content}]}) + "\n\nnot json\n")
    rows = JsonLines(path)
    assert len(rows) == 2
    image, text = rows[0]["messages"][0]["content"]
    assert image["path"] == str(tmp_path / "a.png")
    assert text["text"] == "b.png"
    with pytest.raises(RowError, match=r"rows\.jsonl:3: the line is not JSON"):
        rows[1]
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no rows"):
        JsonLines(tmp_path / "empty.jsonl")


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text in ("one", "two"):
        path.write_text(json.dumps({"anchor": {"text": text}, "positive": {"text": text}}))
        assert open_mixture([str(path)])[0]["anchor"]["text"] == text


def test_several_data_sets_are_kept_apart(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        paths.append(tmp_path / f"{name}.jsonl")
        line = json.dumps({"anchor": name, "positive": name})
        paths[-1].write_text("\n".join([line] * 4))
    opened = open_mixture([str(path) for path in paths], [1.0, 0.5])
    assert {name: len(dataset) for name, dataset in opened.items()} == {"0_a": 4, "1_b": 2}
