"""Which tasks of mteb: the benchmarks that LCO-Emb is judged on by short names, any other of mteb by its own.

for group in find_tasks(["mieb-lite", "seadoc", "STS13VisualSTS"]):
    mteb.evaluate(MtebEncoder(model), group.tasks)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import datasets
import mteb
from mteb.abstasks import AbsTask
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

BENCHMARKS = {
    "mieb-lite": "MIEB(lite)",
    "maeb": "MAEB(v1)",
    "mveb": "MVEB(v1)",
    "vidore": "ViDoRe(v1&v2)",
    "vidore-v1": "ViDoRe(v1)",
    "vidore-v2": "ViDoRe(v2)",
    "vidore-v3": "ViDoRe(v3)",
}
"""Short names of mteb's benchmarks."""

CONFIGS = {
    "corpus": ("id", "image"),
    "query": ("id", "text"),
    "qrels": ("query-id", "corpus-id", "score"),
}
"""The parts of SeaDoc that the task reads, and the columns that it needs of each (dataset card of LCO-Embedding/SeaDoc,
revision 7c3cf33)."""


class SeaDocRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
    """Find the page of a document in Lao, Vietnamese, Thai or Malay that answers a question in English.

    5,091 pages as images, 1,001 questions, one relevant page for each. mteb's own loader would take the part "default"
    of the data set for its judgements, which are in "qrels": it holds the pages once more.
    """

    metadata = TaskMetadata(
        name="SeaDocRetrieval",
        description="Retrieve pages of documents in Southeast Asian languages by questions in English.",
        reference="https://arxiv.org/abs/2510.11693",
        dataset={"path": "LCO-Embedding/SeaDoc", "revision": "7c3cf3335cc157c415c7cc084e91b6f0fc26f839"},
        type="DocumentUnderstanding",
        category="t2i",
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs=["eng-Latn", "lao-Laoo", "vie-Latn", "tha-Thai", "msa-Latn"],
        main_score="ndcg_at_10",
        license="apache-2.0",
        task_subtypes=["Image Text Retrieval"],
        dialect=[],
        bibtex_citation="""\
@misc{xiao2025scaling,
  title={Scaling Language-Centric Omnimodal Representation Learning},
  author={Chenghao Xiao and Hou Pong Chan and Hao Zhang and Weiwen Xu and Mahani Aljunied and Yu Rong},
  year={2025},
  eprint={2510.11693},
  archivePrefix={arXiv},
}""",
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load the pages, the questions, and which belong together.

        Raises:
            ValueError: A part has not the columns that it should have.
        """
        pages, questions, judgements = (self._load(config, num_proc) for config in CONFIGS)
        relevant: dict[str, dict[str, int]] = {}
        for row in judgements:
            relevant.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
        text = datasets.Value("string")
        split = {
            "corpus": pages.cast_column("id", text),
            "queries": questions.cast_column("id", text),
            "relevant_docs": relevant,
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True

    def _load(self, config: str, num_proc: int | None) -> datasets.Dataset:
        source = self.metadata.dataset
        parts = datasets.load_dataset(source["path"], config, revision=source["revision"], num_proc=num_proc)
        # Each has one split, that of the pages being called "corpus".
        rows = parts["test"] if "test" in parts else next(iter(parts.values()))
        missing = [name for name in CONFIGS[config] if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"{source['path']}: the part {config!r} has the columns {', '.join(rows.column_names)}; "
                f"expected {', '.join(missing)} as well"
            )
        return rows.select_columns(list(CONFIGS[config]))


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that are reported together.

    Args:
        name: Short name, for files.
        title: Name as mteb has it.
        tasks: The tasks.
    """

    name: str
    title: str
    tasks: tuple[AbsTask, ...]


def find_tasks(names: Sequence[str]) -> list[TaskGroup]:
    """Find tasks by names.

    Args:
        names: Each a key of `BENCHMARKS`, "seadoc", or a benchmark or task of mteb by its own name.

    Returns:
        A group for each benchmark, in order, and one last for the single tasks.

    Raises:
        ValueError: There is no such benchmark or task.
    """
    groups: list[TaskGroup] = []
    single: list[AbsTask] = []
    titles = {benchmark.name: benchmark for benchmark in mteb.get_benchmarks()}
    for name in names:
        title = BENCHMARKS.get(name.lower(), name)
        if name.lower() == "seadoc":
            groups.append(TaskGroup("seadoc", "SeaDoc", (SeaDocRetrieval(),)))
        elif title in titles:
            groups.append(TaskGroup(name.lower() if title != name else name, title, tuple(titles[title].tasks)))
        elif name == SeaDocRetrieval.metadata.name:
            single.append(SeaDocRetrieval())
        else:
            single.append(_task(name, titles))
    if single:
        groups.append(TaskGroup("tasks", "Tasks", tuple(single)))
    return groups


def _task(name: str, titles: Iterable[str]) -> AbsTask:
    try:
        return mteb.get_task(name)
    except KeyError:
        known = [*BENCHMARKS, "seadoc", *titles, *(task.metadata.name for task in mteb.get_tasks())]
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"the groups are {', '.join([*BENCHMARKS, 'seadoc'])}"
        raise ValueError(f"mteb knows no task or benchmark {name!r}; {hint}") from None
