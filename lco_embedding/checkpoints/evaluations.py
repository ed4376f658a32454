"""Figures that evaluations have left in a checkpoint; none is typed by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation measured.

    Args:
        name: Of the benchmark or task.
        figures: By name.
        command: That makes them again, if it is known.
        source: The file, within the folder.
        intervals: Bounds of 95% of figures, by their names; of those that have some.
    """

    name: str
    figures: dict[str, float]
    command: str | None
    source: str
    intervals: dict[str, list[float]] = field(default_factory=dict)


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Read the evaluations in a folder.

    These are `evaluation/*.json`, flat objects of `name`, `figures` and `command`, as `lco-embedding evaluate` writes
    them, and the results of mteb, `results/<model>/<revision>/<Task>.json`, there or beside it.

    Raises:
        ValueError: A file is not such a one.
    """
    found = [_own(path, folder) for path in sorted((folder / "evaluation").glob("*.json"))]
    return found + [_mteb(path, folder) for path in mteb_results(folder)]


def mteb_results(folder: Path) -> list[Path]:
    """List the results of mteb in a folder."""
    places = (folder / "results", folder / "evaluation" / "results")
    found = [path for place in places for path in place.glob("*/*/*.json") if path.name != "model_meta.json"]
    return sorted(found)


def _own(path: Path, folder: Path) -> Evaluation:
    name = path.relative_to(folder).as_posix()
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        figures = _numbers(content["figures"])
        intervals = dict(content.get("intervals", {}))
        return Evaluation(str(content.get("name", path.stem)), figures, content.get("command"), name, intervals)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{name} must be an object of "name", "figures" and "command" ({error!r})') from None


def _mteb(path: Path, folder: Path) -> Evaluation:
    name = path.relative_to(folder).as_posix()
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        scores = {
            f"{split}{'' if entry['hf_subset'] == 'default' else ' ' + entry['hf_subset']}": entry["main_score"]
            for split, entries in content["scores"].items()
            for entry in entries
        }
        command = f"mteb {content['mteb_version']}" if content.get("mteb_version") else "mteb"
        return Evaluation(content["task_name"], _numbers(scores), command, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is no result of mteb ({error!r})") from None


def _numbers(figures: Any, prefix: str = "") -> dict[str, float]:
    """Return the numbers of an object; those of nested ones are named by their way to them."""
    found: dict[str, float] = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{key} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found
