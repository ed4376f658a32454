"""Scores of mteb as the Hub shows them: `.eval_results/<Task>.yaml`, as `ModelMeta.push_eval_results` of mteb sends."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from lco_embedding.model_cards.figures import mteb_results

FOLDER = ".eval_results"
SOURCE = "https://github.com/embeddings-benchmark/mteb/"
DIGITS = 5


def write_eval_results(folder: str | Path, user: str | None = None) -> list[Path]:
    """Write the scores that mteb has left in a checkpoint, `results/<model>/<revision>/<Task>.json`, for the Hub.

    Args:
        folder: The checkpoint.
        user: User or organisation of the Hub that measured them.

    Returns:
        What was written; nothing if there are no results.

    Raises:
        ImportError: There are results, but no mteb, which knows the data sets of its tasks.
    """
    folder = Path(folder)
    found = mteb_results(folder)
    if not found:
        return []
    if find_spec("mteb") is None:
        raise ImportError("scores for the Hub need mteb, which knows the data set of a task: pip install mteb")
    written = []
    for path in found:
        result = json.loads(path.read_text(encoding="utf8"))
        target = folder / FOLDER / f"{result['task_name']}.yaml"
        target.parent.mkdir(exist_ok=True)
        target.write_text(yaml.safe_dump(_entries(result, user), sort_keys=False), encoding="utf8")
        written.append(target)
    return written


def _entries(result: dict[str, Any], user: str | None) -> list[dict[str, Any]]:
    """Return the entries of a task: one for each subset of each split, and one for the whole if nothing is missing."""
    from mteb import get_task

    metadata = get_task(result["task_name"]).metadata
    notes = f"Obtained using MTEB v{result.get('mteb_version')}"
    date = result.get("date")
    common = {
        "dataset_id": metadata.dataset["path"],
        "dataset_revision": metadata.dataset["revision"],
        "date": None if date is None else str(date)[:10],
        "notes": notes,
        "source_url": SOURCE,
        "source_name": notes,
        "source_user": user,
    }
    scores = {
        (split, entry.get("hf_subset", "default")): entry["main_score"]
        for split, entries in result["scores"].items()
        for entry in entries
    }
    entries = [
        EvalResultEntry(task_id=f"{result['task_name']}_{subset}_{split}", value=round(score * 100, DIGITS), **common)
        for (split, subset), score in scores.items()
    ]
    splits, subsets = {split for split, _ in scores}, {subset for _, subset in scores}
    if len(splits) == len(metadata.eval_splits) and len(subsets) == len(metadata.hf_subsets):
        mean = sum(scores.values()) / len(scores)
        entries.append(EvalResultEntry(task_id=metadata.name, value=round(mean * 100, DIGITS), **common))
    return eval_result_entries_to_yaml(entries)
