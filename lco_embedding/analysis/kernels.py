"""How alike two modalities arrange the same things: kernel alignment, from embeddings of images and of their captions.

    mutual_knn(images, captions)            # share of neighbours in common: 1 for the same arrangement, k / n by chance
    kernel_alignment(images, captions)      # all measures

The measures and their settings are those of "The Platonic Representation Hypothesis" (Huh et al., arXiv 2405.07987),
which takes rows of length 1 and k = 10. Row i of one side belongs to row i of the other; the dimensions may differ.

No matrix of n x n is ever held: neighbours are sought a block of rows at a time, the linear kernels of CKA are summed
through their cross-covariances of d x d, and the kernels of CKNNA are sparse. 50,000 rows fit in 8 GB
(`benchmarks/kernel_alignment.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

Rows = NDArray[Any] | Tensor
Neighbours = NDArray[np.int64]

K = 10
"""Neighbours, and dimensions of SVCCA, in the paper."""

SAME = 1e-6
"""Entries of unit rows that differ by no more are alike but for rounding. Neighbours among rows that are all alike
would be those that sorting happens to put first, on both sides: a full alignment of nothing."""

BLOCK = 512
"""Rows that are compared with all at a time: with 50,000 others, they take 100 MB."""

MEASURES = ("mutual_knn", "cycle_knn", "lcs_knn", "edit_distance_knn", "cknna", "cka", "unbiased_cka", "svcca")


def kernel_alignment(rows: Rows, others: Rows, k: int = K) -> dict[str, float]:
    """Return all `MEASURES`, for which neighbours are sought once.

    Args:
        rows: Embeddings of shape (examples, dimension).
        others: Embeddings of the same examples in the other modality, of shape (examples, other dimension).
        k: Neighbours, and dimensions of SVCCA.

    Raises:
        ValueError: Shapes don't fit, rows are not finite, or there are too few of them.
    """
    one, two = _pair(rows, others, k)
    near, far = _neighbours(one, k), _neighbours(two, k)
    products = _products_of_columns(one, two)
    figures = (
        _shared(near, far).mean(),
        _cycles(near, far).mean(),
        _common_subsequence(near, far).mean(),
        1 - _edit_distance(near, far).mean() / k,
        _cknna(one, two, near, far),
        _cka(one, two, products),
        _unbiased_cka(one, two, products),
        _svcca((one, products.one), (two, products.two), k),
    )
    return dict(zip(MEASURES, map(float, figures), strict=True))


def neighbours(rows: Rows, k: int = K) -> Neighbours:
    """Return the k rows that are nearest to each row by cosine, itself left out, the nearest first: (examples, k)."""
    return _neighbours(_unit(rows, k), k)


def shared_neighbours(rows: Rows, others: Rows, k: int = K) -> NDArray[np.float64]:
    """Return for each example the share of its k nearest in one modality that are so in the other: (examples,)."""
    one, two = _pair(rows, others, k)
    return _shared(_neighbours(one, k), _neighbours(two, k))


def mutual_knn(rows: Rows, others: Rows, k: int = K) -> float:
    """Return the share of the k nearest neighbours that both modalities agree on, whatever their order."""
    return float(shared_neighbours(rows, others, k).mean())


def cycle_knn(rows: Rows, others: Rows, k: int = K) -> float:
    """Return the share of examples that are found again when one goes to a neighbour in `others`, then in `rows`.

    An example counts if it is among the k nearest, in `rows`, of any of its k nearest in `others`.
    """
    one, two = _pair(rows, others, k)
    return float(_cycles(_neighbours(one, k), _neighbours(two, k)).mean())


def lcs_knn(rows: Rows, others: Rows, k: int = K) -> float:
    """Return the mean length, 0 to k, of the longest common subsequence of the two ordered lists of neighbours."""
    one, two = _pair(rows, others, k)
    return float(_common_subsequence(_neighbours(one, k), _neighbours(two, k)).mean())


def edit_distance_knn(rows: Rows, others: Rows, k: int = K) -> float:
    """Return 1 less the mean Levenshtein distance of the two ordered lists of neighbours, divided by k."""
    one, two = _pair(rows, others, k)
    return float(1 - _edit_distance(_neighbours(one, k), _neighbours(two, k)).mean() / k)


def cknna(rows: Rows, others: Rows, k: int = K) -> float:
    """Return CKA of linear kernels that keep only pairs which are neighbours in both modalities (unbiased HSIC).

    Pair (i, j) is kept if j is among the k nearest of i in both; a modality with itself, by its own neighbours.
    """
    one, two = _pair(rows, others, k)
    return _cknna(one, two, _neighbours(one, k), _neighbours(two, k))


def cka(rows: Rows, others: Rows) -> float:
    """Return the linear centred kernel alignment (Kornblith et al., arXiv 1905.00414), by the biased HSIC."""
    one, two = _pair(rows, others, 1)
    return _cka(one, two, _products_of_columns(one, two))


def unbiased_cka(rows: Rows, others: Rows) -> float:
    """Return the linear centred kernel alignment by the unbiased HSIC (Song et al., JMLR 13, eq. 5): 0 by chance."""
    one, two = _pair(rows, others, 3)
    return _unbiased_cka(one, two, _products_of_columns(one, two))


def svcca(rows: Rows, others: Rows, dimensions: int = K) -> float:
    """Return the mean canonical correlation of the first singular directions of each side (Raghu et al. 1706.05806).

    Columns are centred and scaled to one deviation, as the paper does.

    Args:
        rows: Shape (examples, dimension).
        others: Shape (examples, other dimension).
        dimensions: How many directions are kept.

    Raises:
        ValueError: A side spreads in fewer dimensions.
    """
    one, two = _pair(rows, others, dimensions)
    return _svcca((one, _cross(one, one)), (two, _cross(two, two)), dimensions)


# --- neighbours -------------------------------------------------------------------------------------------------------


def _neighbours(unit: Tensor, k: int) -> Neighbours:
    found = np.empty((len(unit), k), dtype=np.int64)
    for start in range(0, len(unit), BLOCK):
        scores = unit[start : start + BLOCK] @ unit.T
        own = torch.arange(len(scores), device=scores.device)
        scores[own, start + own] = -torch.inf
        found[start : start + BLOCK] = scores.topk(k, dim=1).indices.cpu().numpy()
    return found


def _shared(near: Neighbours, far: Neighbours) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = (near[:, :, None] == far[:, None, :]).any(axis=2).mean(axis=1)
    return shares


def _cycles(near: Neighbours, far: Neighbours) -> NDArray[np.bool_]:
    own = np.arange(len(near))[:, None]
    back = np.zeros(len(near), dtype=np.bool_)
    for column in far.T:
        back |= (near[column] == own).any(axis=1)
    return back


def _common_subsequence(near: Neighbours, far: Neighbours) -> NDArray[np.int64]:
    """Return the lengths of longest common subsequences, by the usual table, all examples at once."""
    k = near.shape[1]
    above = np.zeros((k + 1, len(near)), dtype=np.int64)
    for row in range(k):
        here = np.zeros_like(above)
        for column in range(k):
            matched = above[column] + 1
            skipped = np.maximum(above[column + 1], here[column])
            here[column + 1] = np.where(near[:, row] == far[:, column], matched, skipped)
        above = here
    return above[k]


def _edit_distance(near: Neighbours, far: Neighbours) -> NDArray[np.int64]:
    """Return Levenshtein distances, by the usual table, all examples at once."""
    k = near.shape[1]
    above = np.repeat(np.arange(k + 1)[:, None], len(near), axis=1)
    for row in range(k):
        here = np.empty_like(above)
        here[0] = row + 1
        for column in range(k):
            replaced = above[column] + (near[:, row] != far[:, column])
            here[column + 1] = np.minimum(replaced, 1 + np.minimum(above[column + 1], here[column]))
        above = here
    return above[k]


# --- kernels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Products:
    """Of the columns of one side with those of the other, and of each side with its own: (dimension, dimension)."""

    across: Tensor
    one: Tensor
    two: Tensor


def _products_of_columns(one: Tensor, two: Tensor) -> _Products:
    return _Products(_cross(one, two), _cross(one, one), _cross(two, two))


def _cross(one: Tensor, two: Tensor) -> Tensor:
    """Return one' two in float64, of shape (dimension, other dimension), block by block."""
    total = torch.zeros(one.shape[1], two.shape[1], dtype=torch.float64, device=one.device)
    for start in range(0, len(one), BLOCK):
        total += one[start : start + BLOCK].double().T @ two[start : start + BLOCK].double()
    return total


def _cka(one: Tensor, two: Tensor, products: _Products) -> float:
    # tr(K H L H) is the squared norm of the cross-covariance.
    def hsic(left: Tensor, right: Tensor, product: Tensor) -> Tensor:
        means = [side.mean(dim=0, dtype=torch.float64) for side in (left, right)]
        return (product - len(left) * torch.outer(*means)).square().sum()

    return _ratio(hsic(one, two, products.across), hsic(one, one, products.one), hsic(two, two, products.two))


def _unbiased_cka(one: Tensor, two: Tensor, products: _Products) -> float:
    count = len(one)

    def parts(side: Tensor) -> tuple[Tensor, Tensor]:
        """Return the diagonal of the kernel, and the sums of its rows without the diagonal."""
        diagonal = side.square().sum(dim=1, dtype=torch.float64)
        total = side.sum(dim=0, dtype=torch.float64)
        sums = torch.cat([block.double() @ total for block in torch.split(side, BLOCK)])
        return diagonal, sums - diagonal

    def hsic(left: Tensor, right: Tensor, product: Tensor) -> Tensor:
        (one_diagonal, one_sums), (two_diagonal, two_sums) = parts(left), parts(right)
        trace = product.square().sum() - one_diagonal @ two_diagonal
        means = one_sums.sum() * two_sums.sum() / ((count - 1) * (count - 2))
        return trace + means - 2 * (one_sums @ two_sums) / (count - 2)

    return _ratio(hsic(one, two, products.across), hsic(one, one, products.one), hsic(two, two, products.two))


def _cknna(one: Tensor, two: Tensor, near: Neighbours, far: Neighbours) -> float:
    count, k = near.shape
    row = np.repeat(np.arange(count), k)
    both = (near[:, :, None] == far[:, None, :]).any(axis=2).ravel()

    def hsic(left: Tensor, right: Tensor, lists: Neighbours, kept: NDArray[np.bool_]) -> float:
        # The entries (i, j) of both kernels that the mask keeps; it is not symmetric.
        i, j = row[kept], lists.ravel()[kept]
        first, second = _products(left, i, j), _products(right, i, j)
        order = np.argsort(i * count + j)
        keys, mirrored = (i * count + j)[order], j * count + i
        place = np.minimum(np.searchsorted(keys, mirrored), max(len(keys) - 1, 0))
        is_kept = keys[place] == mirrored if len(keys) else np.zeros(0, dtype=bool)
        trace = float((first[is_kept] * second[order][place[is_kept]]).sum())
        across = np.bincount(j, first, count) @ np.bincount(i, second, count)
        means = first.sum() * second.sum() / ((count - 1) * (count - 2))
        return float(trace + means - 2 * across / (count - 2))

    everything = np.ones(count * k, dtype=np.bool_)
    return _ratio(hsic(one, two, near, both), hsic(one, one, near, everything), hsic(two, two, far, everything))


def _products(unit: Tensor, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the products of pairs of rows, in float64."""
    pieces = [
        (unit[i[start : start + BLOCK]].double() * unit[j[start : start + BLOCK]].double()).sum(dim=1).cpu().numpy()
        for start in range(0, len(i), BLOCK)
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0)


def _svcca(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], dimensions: int) -> float:
    # Of each side the rows, and the products of its columns. Bases of the first left singular directions are
    # orthonormal and centred, so that the canonical correlations are the singular values of their product.
    bases = [_left_directions(unit, product, dimensions) for unit, product in (one, two)]
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1.0).mean())


def _left_directions(unit: Tensor, product: Tensor, dimensions: int) -> Tensor:
    """Return the first left singular vectors of standardised columns, in float64 of shape (examples, dimensions)."""
    count = len(unit)
    mean = unit.mean(dim=0, dtype=torch.float64)
    covariance = product - count * torch.outer(mean, mean)
    deviation = (covariance.diagonal() / (count - 1)).clamp(min=0).sqrt()
    # A column that does not vary beyond rounding is nothing, and not to be blown up.
    scale = torch.where(deviation > 1e-6 * unit.abs().max(), 1 / deviation, torch.zeros_like(deviation))
    values, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
    if dimensions > len(values) or values[-dimensions] <= 1e-9 * values[-1]:
        raise ValueError(f"embeddings spread in fewer than {dimensions} dimensions; ask for fewer")
    top = vectors[:, -dimensions:] * values[-dimensions:].rsqrt()
    return torch.cat([((block.double() - mean) * scale) @ top for block in torch.split(unit, BLOCK)])


def _ratio(across: Tensor | float, one: Tensor | float, two: Tensor | float) -> float:
    scale = float(one) * float(two)
    return float(across) / scale**0.5 if scale > 0 else 0.0


# --- input ------------------------------------------------------------------------------------------------------------


def _pair(rows: Rows, others: Rows, k: int) -> tuple[Tensor, Tensor]:
    if len(rows) != len(others):
        raise ValueError(f"got {len(rows)} rows and {len(others)}; expected the same examples on both sides")
    return _unit(rows, k), _unit(others, k)


def _unit(rows: Rows, k: int) -> Tensor:
    """Return rows of length 1 in float32."""
    matrix = rows if isinstance(rows, Tensor) else torch.from_numpy(np.asarray(rows, dtype=np.float32))
    if matrix.ndim != 2 or k < 1 or len(matrix) <= k:
        raise ValueError(
            f"got embeddings of shape {tuple(matrix.shape)} for k={k}; expected (examples, dimension), more than k"
        )
    matrix = normalize(matrix.detach().float(), dim=1)
    if not bool(matrix.isfinite().all()):
        bad = (~matrix.isfinite().all(dim=1)).nonzero()[:10, 0].tolist()
        raise ValueError(f"rows {bad} of the embeddings hold NaN or infinite values; leave them out")
    if bool(((matrix - matrix[0]).abs() <= SAME).all()):
        raise ValueError(
            "all rows of the embeddings point the same way, so that none has neighbours; what enters a decoder "
            "(layer 0) is such, as all chats end alike: leave it out"
        )
    return matrix
