"""The record of a training run that lies beside its checkpoint, as a reader sees it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NAME = "training_record.json"
"""Name of the file in a checkpoint."""

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
"""What the name of a repository looks like."""

RANDOM = "random"
"""The base of a model that was trained from nothing."""

Record = dict[str, Any]


def previous(folder: str | Path) -> Record | None:
    """Return the record of a checkpoint, None if it has none."""
    path = Path(folder, NAME)
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else None


def runs(record: Record | None) -> list[Record]:
    """Return the runs that led to a checkpoint, the last first; a soup ends the list."""
    found = []
    while record is not None:
        found.append(record)
        record = record.get("before")
    return found


def bases(record: Record | None) -> list[str]:
    """Return the ids of the repositories that a checkpoint was made of, the nearest that are known."""
    for run in runs(record):
        names = [source["name"] for source in run["sources"]] if "sources" in run else [run.get("base", "")]
        if found := [name for name in names if HUB_ID.fullmatch(name)]:
            return found
        if "sources" in run:
            return list(dict.fromkeys(name for source in run["sources"] for name in bases(source.get("before"))))
    return []


def is_from_nothing(record: Record | None) -> bool:
    """Tell whether a checkpoint was trained from random weights, so that it has no base."""
    line = runs(record)
    if not line:
        return False
    if "sources" in line[-1]:
        return all(is_from_nothing(source.get("before")) for source in line[-1]["sources"])
    return line[-1].get("base") == RANDOM


def data_sets(record: Record | None) -> list[str]:
    """Return the ids of the data sets of the Hub that the runs were trained on."""
    names = [name.partition(":")[0] for run in runs(record) for name in run.get("data", ())]
    return list(dict.fromkeys(name for name in names if HUB_ID.fullmatch(name)))
