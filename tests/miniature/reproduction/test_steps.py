"""Steps are done once for their settings, and what was interrupted is done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from lco_embedding.miniature.reproduction.steps import Steps


def test_a_step_is_done_once_for_its_settings(tmp_path: Path) -> None:
    told: list[str] = []
    steps = Steps(tmp_path / "steps", told.append)
    calls: list[int] = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"calls": len(calls)}

    assert steps.run("a", {"seed": 0}, work) == {"calls": 1}
    assert Steps(tmp_path / "steps").run("a", {"seed": 0}, work) == {"calls": 1}
    assert steps.run("a", {"seed": 1}, work) == {"calls": 2}
    assert steps.run("b", {"seed": 0}, work) == {"calls": 3}
    assert steps.run("a", {"seed": 0}, work) == {"calls": 1}
    assert told[-1] == "a: done before"


def test_an_interrupted_step_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    steps = Steps(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        steps.run("a", {}, interrupted)
    assert not list(tmp_path.iterdir())
    assert steps.run("a", {}, lambda: [1]) == [1]


def test_a_step_that_is_asked_for_twice_counts_once(tmp_path: Path) -> None:
    Steps(tmp_path).run("a", {}, lambda: 1)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace('"seconds": 0.0', '"seconds": 2.5'))
    steps = Steps(tmp_path)
    assert steps.run("a", {}, lambda: 2) == steps.run("a", {}, lambda: 3) == 1
    assert steps.seconds == 2.5
