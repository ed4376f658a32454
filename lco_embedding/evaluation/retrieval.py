"""Retrieval figures from embeddings: recall, nDCG and mean reciprocal rank, each with a bootstrap interval.

    result = evaluate_retrieval(model.encode(captions), model.encode(images), relevant=range(len(captions)))
    print(result.ndcg[10])      # 0.512 [0.480, 0.541]

Ties count against the embeddings: where scores are equal, relevant documents come last. So an embedding that is the
same for all inputs finds nothing, instead of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

Embeddings = NDArray[Any] | Tensor
Similarity = Callable[[Tensor, Tensor], Tensor]
Relevant = Sequence[int | Collection[int]] | NDArray[np.integer[Any]]

TIE = 1e-6
"""Scores nearer than this count as equal, beyond 1 in relation to their size: products of equal rows differ by less,
as they are rounded differently in different places of a matrix."""

CONFIDENCE = 0.95
"""Share of the resampled figures that lies within an interval."""

QUERY_BLOCK, DOCUMENT_BLOCK = 512, 8192
"""Rows that are compared at a time; their scores take 16 MB."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, with the bounds of its percentile bootstrap interval of 95%."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Retrieval:
    """What a search found, as means over its queries.

    Args:
        queries: Number of queries.
        documents: Number of documents that each query is compared with.
        recall: For each cutoff, the share of a query's relevant documents among as many first ones.
        ndcg: For each cutoff, the discounted gain of the relevant documents, as a share of the highest possible.
        mrr: The reciprocal rank of the first relevant document.
    """

    queries: int
    documents: int
    recall: Mapping[int, Estimate]
    ndcg: Mapping[int, Estimate]
    mrr: Estimate

    def figures(self) -> dict[str, float]:
        """Return the values without their intervals, by names such as `ndcg@10`, for logs and tables."""
        recall = {f"recall@{k}": estimate.value for k, estimate in self.recall.items()}
        ndcg = {f"ndcg@{k}": estimate.value for k, estimate in self.ndcg.items()}
        return {**recall, **ndcg, "mrr": self.mrr.value}


def cosine(queries: Tensor, documents: Tensor) -> Tensor:
    """Return the cosines between all rows, of shape (queries, documents); those of a row of zeros are 0."""
    return normalize(queries, dim=1) @ normalize(documents, dim=1).T


def evaluate_retrieval(
    queries: Embeddings,
    documents: Embeddings,
    relevant: Relevant,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    similarity: Similarity = cosine,
) -> Retrieval:
    """Search each query among the documents, and tell how well that finds what is relevant to it.

    Args:
        queries: Embeddings of shape (queries, dimension), of any float type; they need not be normalised.
        documents: Embeddings of shape (documents, dimension). May be a memory map: only blocks are read.
        relevant: For each query the index of the relevant document, or the indices of several.
        ks: Cutoffs of recall and nDCG.
        bootstrap: How often the queries are resampled for the intervals.
        seed: Seed of the resampling.
        similarity: Scores blocks of queries and documents (both float32) as a matrix of shape (queries, documents),
            higher for what is nearer; `model.similarity` is one.

    Raises:
        TypeError: The embeddings are neither arrays nor tensors.
        ValueError: Rows hold NaN or infinite values, shapes don't fit, or `relevant` names no document or one that
            there is not.
    """
    ranks = rank_relevant(queries, documents, relevant, similarity)
    return score_ranks(ranks, len(documents), ks, bootstrap, seed)


def rank_relevant(
    queries: Embeddings, documents: Embeddings, relevant: Relevant, similarity: Similarity = cosine
) -> list[NDArray[np.int64]]:
    """Return for each query the ranks of its relevant documents, from 1, ascending.

    The arguments and errors are those of [`evaluate_retrieval`].
    """
    _check(queries, "queries")
    _check(documents, "documents")
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and documents {documents.shape[1]}; encode both alike"
        )
    columns = _columns(relevant, len(queries), len(documents))
    device = next((rows.device for rows in (queries, documents) if isinstance(rows, Tensor)), torch.device("cpu"))
    ranks: list[NDArray[np.int64]] = []
    for start in range(0, len(queries), QUERY_BLOCK):
        block = _block(queries, slice(start, start + QUERY_BLOCK)).to(device)
        ranks += _rank_block(block, documents, columns[start : start + QUERY_BLOCK], similarity)
    return ranks


def score_ranks(
    ranks: Sequence[NDArray[np.int64]],
    documents: int,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
) -> Retrieval:
    """Turn the ranks of relevant documents into figures.

    Args:
        ranks: For each query the ranks of its relevant documents, as [`rank_relevant`] returns them; those of several
            searches may be joined.
        documents: How many documents were searched.
        ks: Cutoffs of recall and nDCG.
        bootstrap: How often the queries are resampled for the intervals.
        seed: Seed of the resampling.

    Raises:
        ValueError: There are no queries, or a cutoff or the number of resamplings is not positive.
    """
    if not ranks:
        raise ValueError("there are no queries; expected at least one")
    if not ks or min(ks) < 1:
        raise ValueError(f"expected cutoffs of 1 or more, got {list(ks)}")
    if bootstrap < 1:
        raise ValueError(f"expected 1 resampling or more, got bootstrap={bootstrap}")
    counts = np.array([len(each) for each in ranks])
    starts, flat = np.cumsum(counts) - counts, np.concatenate(ranks)
    ideal = np.cumsum(1 / np.log2(np.arange(2, max(ks) + 2)))
    figures = []
    for k in ks:
        found = np.add.reduceat(flat <= k, starts, dtype=np.float64)
        gain = np.add.reduceat(np.where(flat <= k, 1 / np.log2(flat + 1), 0.0), starts)
        figures += [found / counts, gain / ideal[np.minimum(counts, k) - 1]]
    figures.append(1 / np.minimum.reduceat(flat, starts))
    *estimates, mrr = _estimate(np.stack(figures, axis=1), bootstrap, seed)
    recall, ndcg = dict(zip(ks, estimates[::2], strict=True)), dict(zip(ks, estimates[1::2], strict=True))
    return Retrieval(len(ranks), documents, recall, ndcg, mrr)


def _rank_block(
    queries: Tensor, documents: Embeddings, columns: Sequence[NDArray[np.int64]], similarity: Similarity
) -> list[NDArray[np.int64]]:
    """Rank the relevant documents, `columns`, of a block of queries of shape (rows, dimension)."""
    counts = np.array([len(each) for each in columns])
    row = np.repeat(np.arange(len(columns)), counts)
    slot = np.concatenate([np.arange(count) for count in counts.tolist()])
    column = np.concatenate(columns)

    # Scores of the relevant documents, descending: of shape (rows, most relevant documents), padded with -inf.
    distinct, place = np.unique(column, return_inverse=True)
    scores = _scores(queries, documents, distinct, similarity)
    own = torch.full((len(columns), int(counts.max())), -torch.inf, device=queries.device)
    own[row, slot] = scores[row, place].to(own.dtype)
    own = own.sort(dim=1, descending=True).values
    thresholds = own - TIE * own.abs().clamp(min=1)

    ahead = torch.zeros(own.shape, dtype=torch.int64, device=queries.device)
    for start in range(0, len(documents), DOCUMENT_BLOCK):
        scores = _scores(queries, documents, slice(start, start + DOCUMENT_BLOCK), similarity)
        inside = (column >= start) & (column < start + DOCUMENT_BLOCK)
        scores[row[inside], column[inside] - start] = -torch.inf  # only what is not relevant can be ahead
        for index in range(own.shape[1]):
            ahead[:, index] += (scores >= thresholds[:, index, None]).sum(dim=1)
    ranks = ahead.cpu().numpy() + np.arange(1, own.shape[1] + 1)
    return [each[:count] for each, count in zip(ranks, counts.tolist(), strict=True)]


def _scores(queries: Tensor, documents: Embeddings, index: slice | NDArray[np.int64], similarity: Similarity) -> Tensor:
    """Return the scores of some documents, a tensor of shape (queries, documents) that may be written to."""
    block = _block(documents, index).to(queries.device)
    scores = similarity(queries, block)
    if scores.shape != (len(queries), len(block)):
        raise ValueError(
            f"the similarity returned the shape {tuple(scores.shape)}; expected {(len(queries), len(block))}"
        )
    if not bool(scores.isfinite().all()):
        raise ValueError("the similarity returned NaN or infinite scores; expected finite ones")
    return scores


def _block(rows: Embeddings, index: slice | NDArray[np.int64]) -> Tensor:
    """Return some rows as float32."""
    if isinstance(rows, Tensor):
        return rows[index].detach().float()
    return torch.from_numpy(np.array(rows[index], dtype=np.float32))


def _check(rows: Embeddings, name: str) -> None:
    """Raise an error for what is no matrix of finite numbers."""
    if not isinstance(rows, Tensor | np.ndarray):
        raise TypeError(f"{name} are a {type(rows).__name__}; expected an array or a tensor")
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"{name} have the shape {tuple(rows.shape)}; expected (rows, dimension), with a row or more")
    bad: list[int] = []
    for start in range(0, len(rows), DOCUMENT_BLOCK):
        is_bad = ~_block(rows, slice(start, start + DOCUMENT_BLOCK)).isfinite().all(dim=1)
        bad += (start + is_bad.nonzero()[:, 0]).tolist()
    if bad:
        listed = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        raise ValueError(f"{name} hold NaN or infinite values in rows {listed}; encode these again, or leave them out")


def _columns(relevant: Relevant, queries: int, documents: int) -> list[NDArray[np.int64]]:
    """Return the distinct relevant documents of each query."""
    if len(relevant) != queries:
        raise ValueError(f"there are {queries} queries, and relevant documents for {len(relevant)}; expected as many")
    columns = []
    for query, each in enumerate(relevant):
        indices = np.unique([each] if isinstance(each, int | np.integer) else list(each))
        if not indices.size:
            raise ValueError(f"query {query} has no relevant document; leave it out, or name one")
        if indices.dtype.kind not in "iu" or indices[0] < 0 or indices[-1] >= documents:
            raise ValueError(
                f"query {query} has the relevant documents {indices.tolist()}; expected indices below {documents}"
            )
        columns.append(indices.astype(np.int64))
    return columns


def _estimate(values: NDArray[np.float64], bootstrap: int, seed: int) -> list[Estimate]:
    """Return the mean of each column of values of shape (queries, figures), with its interval."""
    rng = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((bootstrap, values.shape[1]))
    for index in range(bootstrap):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        means[index] = times @ values / count
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return [Estimate(*map(float, each)) for each in zip(values.mean(axis=0), low, high, strict=True)]
