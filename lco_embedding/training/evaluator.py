"""Search while training: how well the anchors of held-out rows find their positives, by which the best step is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers.base.evaluation import BaseEvaluator, SequentialEvaluator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from lco_embedding.sides import input_of
from lco_embedding.training.examples import open_data


def retrieval_evaluator(paths: Sequence[str], batch_size: int = 32) -> BaseEvaluator:
    """Return an evaluator that searches the positives and negatives of some data by its anchors.

    Its figures are those of the evaluator of Sentence Transformers: `cosine_ndcg@10`, `cosine_recall@1`, `@10`, ...;
    of several data sets with the name of the file before them, and of the first for `metric_for_best_model`.

    Args:
        paths: As `open_data` takes them.
        batch_size: Inputs in a batch.
    """
    names = [Path(path).stem if len(paths) > 1 else "" for path in paths]
    evaluators = [_search(open_data(path), name, batch_size) for path, name in zip(paths, names, strict=True)]
    if len(evaluators) == 1:
        return evaluators[0]
    return SequentialEvaluator(evaluators, main_score_function=lambda scores: scores[0])


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
