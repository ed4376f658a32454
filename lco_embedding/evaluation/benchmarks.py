"""Run benchmarks of mteb: every task by itself, so that one which fails costs none of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.results import TaskResult

from lco_embedding.atomic_writes import write_text
from lco_embedding.evaluation.mteb_encoder import MtebEncoder
from lco_embedding.evaluation.tasks import TaskGroup

MTEB_URL = "https://github.com/embeddings-benchmark/mteb/"
EXPORTED = ".eval_results"
"""Folder of a model's repository in which the Hub looks for scores."""


@dataclass(frozen=True)
class TaskScore:
    """The score of a task, or why there is none.

    Args:
        task: The task.
        result: What mteb filed; None if it failed.
        error: Why it failed.
    """

    task: AbsTask
    result: TaskResult | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """Name of the task."""
        return str(self.task.metadata.name)

    @property
    def category(self) -> str:
        """Type of the task, by which benchmarks are broken down."""
        return str(self.task.metadata.type)

    @property
    def score(self) -> float | None:
        """The task's main score, from 0 to 1; None if it has none."""
        score = math.nan if self.result is None else float(self.result.get_score())
        return None if math.isnan(score) else score


def run(
    encoder: MtebEncoder, group: TaskGroup, cache: ResultCache, encode_kwargs: Mapping[str, Any]
) -> Iterator[TaskScore]:
    """Run the tasks of a group; what is in the cache is read, not computed again.

    Args:
        encoder: The model.
        group: The tasks.
        cache: Where results are kept, for each task, model and revision.
        encode_kwargs: As in `LCOEmbedding.encode`.

    Yields:
        The score of each task as soon as it is there.
    """
    for task in group.tasks:
        try:
            found = mteb.evaluate(
                encoder,
                task,
                cache=cache,
                encode_kwargs=dict(encode_kwargs),
                raise_error=False,
                co2_tracker=False,
                show_progress_bar=False,
            )
        except ValueError as error:  # the task has modalities that the model does not take
            yield TaskScore(task, error=str(error))
            continue
        if found.task_results:
            result = found.task_results[0]
            is_number = not math.isnan(float(result.get_score()))
            yield TaskScore(task, result, "" if is_number else "its score is not a number")
        else:
            yield TaskScore(task, error=" ".join(error.exception for error in found.exceptions or []))


def mean(scores: Sequence[TaskScore]) -> float | None:
    """Return the mean of the scores that there are; None if there are none."""
    known = [score.score for score in scores if score.score is not None]
    return sum(known) / len(known) if known else None


def by_category(scores: Sequence[TaskScore]) -> dict[str, list[TaskScore]]:
    """Return scores by the type of their tasks, in the order of first appearance."""
    found: dict[str, list[TaskScore]] = {}
    for score in scores:
        found.setdefault(score.category, []).append(score)
    return found


def export(scores: Sequence[TaskScore], folder: str | Path, user: str | None = None) -> list[Path]:
    """Write scores as the Hub shows them on a model's page, one file for each task.

    mteb's `ModelMeta.push_eval_results` makes the same entries and uploads them at once; this writes them to the folder
    of a checkpoint, to be published with it.

    Args:
        scores: The scores; those of failed tasks are passed over.
        folder: The checkpoint.
        user: Who ran them, as known on the Hub.

    Returns:
        The files.
    """
    written = []
    for score in scores:
        if score.result is None or score.score is None:
            continue
        path = Path(folder, EXPORTED, f"{score.name}.yaml")
        entries = eval_result_entries_to_yaml(_entries(score.task, score.result, user))
        write_text(path, yaml.safe_dump(entries, sort_keys=False))
        written.append(path)
    return written


def _entries(task: AbsTask, result: TaskResult, user: str | None) -> list[EvalResultEntry]:
    notes = f"Obtained using MTEB v{result.mteb_version}"
    values = {
        f"{result.task_name}_{scores['hf_subset']}_{split}": scores["main_score"]
        for split, entries in result.scores.items()
        for scores in entries
    }
    subsets = {scores["hf_subset"] for entries in result.scores.values() for scores in entries}
    metadata = task.metadata
    if len(result.scores) == len(metadata.eval_splits) and len(subsets) == len(metadata.hf_subsets):
        values[result.task_name] = result.get_score()
    return [
        EvalResultEntry(
            dataset_id=metadata.dataset["path"],
            dataset_revision=metadata.dataset["revision"],
            task_id=name,
            value=round(float(value) * 100, 5),
            date=None if result.date is None else result.date.date().isoformat(),
            source_url=MTEB_URL,
            source_name=notes,
            source_user=user,
            notes=notes,
        )
        for name, value in values.items()
    ]
