"""The shape of embeddings: how narrow their cone is, how evenly they fill the sphere, how far modalities lie apart.

    stack = layer_embeddings(model, images)                 # (layers + 1, images, dimension)
    by_layer(anisotropy, stack)                             # one figure for each layer
    modality_gap(images, captions), alignment(images, captions)

All take rows as they are and normalise them, but for `effective_rank`. Rows of zeros stay zeros. Work is done in
float64, a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]

BLOCK = 1024
"""Rows that are compared at a time: with 50,000 others, they take 400 MB."""


def by_layer(measure: Callable[..., float], *stacks: Rows) -> NDArray[np.float64]:
    """Return a figure for each layer.

    Args:
        measure: A function of one or more matrices of shape (examples, dimension).
        *stacks: For each of its arguments, an array of shape (layers, examples, dimension).
    """
    return np.array([measure(*layer) for layer in zip(*stacks, strict=True)])


def anisotropy(rows: Rows) -> float:
    """Return the mean cosine of all pairs of different rows: 0 where directions are spread evenly, 1 where all are one.

    The sum over all pairs is the squared length of the sum of the unit rows, so no pair is ever formed: O(n d).

    Args:
        rows: Shape (examples, dimension), of two or more examples.
    """
    return float(mean_cosines(rows).mean())


def mean_cosines(rows: Rows) -> NDArray[np.float64]:
    """Return for each row its mean cosine with all others, whose mean is [`anisotropy`].

    Args:
        rows: Shape (examples, dimension), of two or more examples.
    """
    unit = unit_rows(_checked(rows, 2))
    others: NDArray[np.float64] = unit @ unit.sum(axis=0) - np.square(unit).sum(axis=1)
    return others / (len(unit) - 1)


def uniformity(rows: Rows, t: float = 2.0) -> float:
    """Return how evenly unit rows fill the sphere (Wang & Isola, arXiv 2005.10242): lower is more even, 0 is a point.

    It is the logarithm of the mean of exp(-t |x - y|^2) over all pairs of different rows.

    Args:
        rows: Shape (examples, dimension), of two or more examples.
        t: Sharpness of the kernel.
    """
    unit = unit_rows(_checked(rows, 2))
    total, count = 0.0, len(unit)
    squares = np.square(unit).sum(axis=1)
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        distances = np.maximum(squares[block, None] + squares - 2 * (unit[block] @ unit.T), 0.0)
        kernel = np.exp(-t * distances)
        kernel[np.arange(len(kernel)), start + np.arange(len(kernel))] = 0.0
        total += float(kernel.sum())
    return float(np.log(total / (count * (count - 1))))


def alignment(rows: Rows, others: Rows, alpha: float = 2.0) -> float:
    """Return the mean distance of each unit row to its partner, to the power of alpha (Wang & Isola): 0 is the best.

    Args:
        rows: Shape (examples, dimension).
        others: The same shape; row i of it belongs to row i of `rows`.
        alpha: The power.
    """
    _checked_pair(rows, others)
    distances = np.linalg.norm(unit_rows(rows) - unit_rows(others), axis=1)
    return float(np.mean(distances**alpha))


def modality_gap(rows: Rows, others: Rows) -> float:
    """Return the distance between the means of the unit rows of two modalities (Liang et al., arXiv 2203.02053).

    Args:
        rows: Shape (examples, dimension).
        others: Shape (other examples, dimension).
    """
    means = [unit_rows(_checked(each, 1)).mean(axis=0) for each in (rows, others)]
    return float(np.linalg.norm(means[0] - means[1]))


def effective_rank(rows: Rows, center: bool = False) -> float:
    """Return in how many dimensions rows spread: exp of the entropy of the singular values, each a share of their sum.

    That is the effective rank of Roy & Vetterli (EUSIPCO 2007). It is between 1 and the rank; 0 for zeros alone.

    Args:
        rows: Shape (examples, dimension); not normalised.
        center: Subtract the mean first, without which a narrow cone counts mostly as one dimension.
    """
    matrix = _checked(rows, 1)
    if center:
        matrix = matrix - matrix.mean(axis=0)
    values = np.linalg.svd(matrix, compute_uv=False)
    if not values.any():
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def unit_rows(rows: Rows) -> NDArray[np.float64]:
    """Return rows of length 1 in float64; those of zeros stay zeros."""
    matrix = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1.0)


def _checked(rows: Rows, least: int) -> NDArray[np.float64]:
    matrix = np.asarray(rows, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < least:
        raise ValueError(f"got embeddings of shape {matrix.shape}; expected (examples, dimension), {least} or more")
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if bad.size:
        raise ValueError(f"rows {bad[:10].tolist()} of the embeddings hold NaN or infinite values; leave them out")
    return matrix


def _checked_pair(rows: Rows, others: Rows) -> None:
    if _checked(rows, 1).shape != _checked(others, 1).shape:
        raise ValueError(f"pairs need equal shapes; got {np.shape(rows)} and {np.shape(others)}")
