"""Files of one name are told apart wherever figures and reports are named after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lco_embedding.data.json_lines import names_of


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["dev.jsonl"], ["dev"]),
        (["a/dev.jsonl", "b/test.jsonl"], ["dev", "test"]),
        (["a/dev.jsonl", "b/dev.jsonl", "b/test.jsonl"], ["a_dev", "b_dev", "b_test"]),
        (["a/x/dev.jsonl", "b/x/dev.jsonl"], ["a_x_dev", "b_x_dev"]),
        (["a b.jsonl", "a_b.jsonl"], None),
        (["a_b/c.jsonl", "x/a_b_c.jsonl", "y/c.jsonl"], None),
        (["dev.jsonl", "dev.parquet"], None),
        (["org/pairs:dev", "org/pairs:test"], ["pairs_dev", "pairs_test"]),
    ],
)
def test_names_are_different(paths: list[str], names: list[str] | None) -> None:
    found = names_of(paths)
    assert len(set(found)) == len(paths)
    assert names in (None, found)


def test_a_file_given_twice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"dev\.jsonl is given twice"):
        names_of(["dev.jsonl", str(tmp_path / "dev.jsonl")])
