"""Search while training: how well the anchors of held-out rows find their positives, by which the best step is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sentence_transformers.base.evaluation import BaseEvaluator, SequentialEvaluator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from lco_embedding.data.datasets import open_data
from lco_embedding.data.json_lines import names_of
from lco_embedding.data.sides import input_of

FIGURES = tuple(
    f"cosine_{name}"
    for name in ("ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "accuracy@1", "mrr@10", "map@10")
)
"""What is measured of a search, where similarity is the cosine."""


def retrieval_evaluator(paths: Sequence[str], batch_size: int = 32) -> BaseEvaluator:
    """Return an evaluator that searches the positives and negatives of some data by its anchors.

    Its figures are those of the evaluator of Sentence Transformers: `cosine_ndcg@10`, `cosine_recall@1`, `@10`, ...;
    of several data sets with the name of the file before them, and the mean over the files without.

    Args:
        paths: As `open_data` takes them.
        batch_size: Inputs in a batch.
    """
    if len(paths) == 1:
        return _search(open_data(paths[0]), "", batch_size)
    named = zip(paths, names_of(paths), strict=True)
    return MeanEvaluator([_search(open_data(path), name, batch_size) for path, name in named])


class MeanEvaluator(SequentialEvaluator):  # type: ignore[misc]
    """Several evaluators with the same figures under names of their own, and the means of these without a name."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the figures of each, and their means."""
        results: dict[str, float] = super().__call__(*args, **kwargs)
        names = [f"{evaluator.name}_" for evaluator in self.evaluators]
        for figure in [key.removeprefix(names[0]) for key in results if key.startswith(names[0])]:
            results[figure] = sum(results[f"{name}{figure}"] for name in names) / len(names)
        return results


def _search(rows: Any, name: str, batch_size: int) -> InformationRetrievalEvaluator:
    queries: dict[str, Any] = {}
    corpus: dict[str, Any] = {}
    relevant: dict[str, set[str]] = {}
    for number, row in enumerate(rows):
        anchor, positive, *negatives = ((f"{number}.{column}", input_of(side)) for column, side in row.items())
        query = _put(queries, *anchor)
        relevant.setdefault(query, set()).add(_put(corpus, *positive))
        for negative in negatives:
            _put(corpus, *negative)
    return InformationRetrievalEvaluator(
        queries,
        corpus,
        relevant,
        name=name,
        batch_size=batch_size,
        accuracy_at_k=[1],
        precision_recall_at_k=[1, 10],
        ndcg_at_k=[10],
        mrr_at_k=[10],
        map_at_k=[10],
        write_csv=False,
    )


def _put(inputs: dict[str, Any], name: str, value: Any) -> str:
    """Put an input among others, and return its key; equal ones of text and paths are one."""
    if isinstance(value, str) or (isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())):
        name = json.dumps(value, sort_keys=True)
    inputs.setdefault(name, value)
    return name
