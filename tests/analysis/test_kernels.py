"""Kernel alignment: closed forms, and slow formulas over whole kernels, loops and singular vectors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

from lco_embedding.analysis import kernels as module
from lco_embedding.analysis.kernels import (
    MEASURES,
    cka,
    cknna,
    cycle_knn,
    edit_distance_knn,
    kernel_alignment,
    lcs_knn,
    mutual_knn,
    neighbours,
    shared_neighbours,
    svcca,
    unbiased_cka,
)

RNG = np.random.default_rng(0)
LATENT = RNG.normal(size=(80, 6))
ONE = LATENT @ RNG.normal(size=(6, 12)) + 0.3 * RNG.normal(size=(80, 12)) + 1
TWO = LATENT @ RNG.normal(size=(6, 15)) + 0.5 * RNG.normal(size=(80, 15))
K = 5


def unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def lists(rows: NDArray[Any]) -> list[list[int]]:
    """The neighbours of each row, by sorting."""
    scores = unit(rows) @ unit(rows).T
    order = [sorted(set(range(len(rows))) - {i}, key=lambda j, i=i: -scores[i, j]) for i in range(len(rows))]
    return [each[:K] for each in order]


def lcs(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Longest common subsequence, by its recursive definition."""
    if not a or not b:
        return 0
    return 1 + lcs(a[1:], b[1:]) if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))


@cache
def levenshtein(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Edit distance, by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0]))


def hsic_biased(k: NDArray[Any], l: NDArray[Any]) -> float:  # noqa: E741
    h = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(k @ h @ l @ h))


def hsic_unbiased(k: NDArray[Any], l: NDArray[Any]) -> float:  # noqa: E741
    m, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    return float(
        np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((m - 1) * (m - 2)) - 2 / (m - 2) * (one @ k @ l @ one)
    )


def aligned(hsic: Any, k: NDArray[Any], l: NDArray[Any]) -> float:  # noqa: E741
    return float(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)))


def naive() -> dict[str, float]:
    one, two = lists(ONE), lists(TWO)
    k, l = unit(ONE) @ unit(ONE).T, unit(TWO) @ unit(TWO).T  # noqa: E741
    masks = [np.zeros((80, 80)), np.zeros((80, 80))]
    for mask, near in zip(masks, (one, two), strict=True):
        for i, found in enumerate(near):
            mask[i, found] = 1
    both = masks[0] * masks[1]
    cross = hsic_unbiased(both * k, both * l)
    own = [hsic_unbiased(mask * kernel, mask * kernel) for mask, kernel in zip(masks, (k, l), strict=True)]
    bases = []
    for rows in (unit(ONE), unit(TWO)):
        scaled = (rows - rows.mean(0)) / rows.std(0)
        bases.append(np.linalg.svd(scaled, full_matrices=False)[0][:, :K])
    return {
        "mutual_knn": np.mean([len(set(a) & set(b)) / K for a, b in zip(one, two, strict=True)]),
        "cycle_knn": np.mean([any(i in one[j] for j in two[i]) for i in range(80)]),
        "lcs_knn": np.mean([lcs(tuple(a), tuple(b)) for a, b in zip(one, two, strict=True)]),
        "edit_distance_knn": 1 - np.mean([levenshtein(tuple(a), tuple(b)) for a, b in zip(one, two, strict=True)]) / K,
        "cknna": cross / np.sqrt(own[0] * own[1]),
        "cka": aligned(hsic_biased, k, l),
        "unbiased_cka": aligned(hsic_unbiased, k, l),
        "svcca": np.mean(np.cos(subspace_angles(*bases))),
    }


def test_all_measures_agree_with_slow_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = naive()
    assert tuple(expected) == MEASURES
    for block in (512, 7):
        monkeypatch.setattr(module, "BLOCK", block)
        figures = kernel_alignment(ONE, TWO, K)
        assert figures == pytest.approx(expected, abs=2e-5)
        assert 0.05 < figures["mutual_knn"] < 0.95


def test_single_functions_are_those_of_all_together() -> None:
    together = kernel_alignment(ONE, TWO, K)
    single = {
        "mutual_knn": mutual_knn(ONE, TWO, K),
        "cycle_knn": cycle_knn(ONE, TWO, K),
        "lcs_knn": lcs_knn(ONE, TWO, K),
        "edit_distance_knn": edit_distance_knn(ONE, TWO, K),
        "cknna": cknna(ONE, TWO, K),
        "cka": cka(ONE, TWO),
        "unbiased_cka": unbiased_cka(ONE, TWO),
        "svcca": svcca(ONE, TWO, K),
    }
    assert single == pytest.approx(together)
    assert shared_neighbours(ONE, TWO, K).mean() == pytest.approx(together["mutual_knn"])


def test_the_same_arrangement_is_aligned_in_full_whatever_the_rotation_and_the_lengths() -> None:
    rotation = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    figures = kernel_alignment(ONE, (ONE @ rotation) * RNG.uniform(1, 2, size=(80, 1)), K)
    # Not all are at their most for an arrangement and itself: neighbours need not be mutual, and SVCCA scales columns.
    assert figures.pop("cycle_knn") == pytest.approx(cycle_knn(ONE, ONE, K))
    assert 0 < figures.pop("svcca") <= 1
    assert figures.pop("lcs_knn") == pytest.approx(K)
    assert figures == pytest.approx(dict.fromkeys(figures, 1.0), abs=1e-4)
    assert svcca(ONE, 3 * ONE, K) == pytest.approx(1.0, abs=1e-6)


def test_kernels_of_closed_form() -> None:
    # Two clusters against two others that cut across them: centred kernels are orthogonal.
    a = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    b = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    assert cka(a, b) == pytest.approx(0.0, abs=1e-7)
    assert cka(a, a[:, ::-1]) == pytest.approx(1.0)
    # hsic_u(a, a) = 4 + 16/6 - 8/2 = 8/3; across = 0 + 16/6 - 8/2 = -4/3
    assert unbiased_cka(a, b) == pytest.approx(-0.5)


def test_neighbours_are_ordered_and_leave_the_row_out() -> None:
    angles = np.radians([0, 10, 30, 60, 100])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert neighbours(rows, 2).tolist() == [[1, 2], [0, 2], [1, 3], [2, 4], [3, 2]]


def test_chance() -> None:
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(2, 1500, 32))
    assert mutual_knn(one, two) == pytest.approx(10 / 1499, abs=0.003)
    assert abs(unbiased_cka(one, two)) < 0.01
    assert cka(one, two) > 0.015  # biased: not 0 by chance


def test_orders_of_neighbours_count_where_they_should() -> None:
    near, far = np.array([[1, 2, 3, 4]]), np.array([[4, 1, 2, 3]])
    assert module._shared(near, far).tolist() == [1.0]
    assert module._common_subsequence(near, far).tolist() == [3]
    assert module._edit_distance(near, far).tolist() == [2]


def test_tensors_of_any_float_type_are_taken() -> None:
    tensors = [torch.from_numpy(each).to(torch.bfloat16) for each in (ONE, TWO)]
    assert mutual_knn(*tensors) == mutual_knn(*(each.float().numpy() for each in tensors))


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (ONE, TWO[:-1], "same examples on both sides"),
        (ONE[:5], TWO[:5], "more than k"),
        (ONE, np.ones((80, 3)), "none has neighbours"),
        (np.where(np.arange(80)[:, None] == 4, np.nan, ONE), TWO, r"rows \[4\]"),
    ],
)
def test_bad_input(one: NDArray[Any], two: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mutual_knn(one, two)


def test_svcca_names_too_few_dimensions() -> None:
    with pytest.raises(ValueError, match="fewer than 5 dimensions"):
        svcca(ONE[:, :3], TWO, 5)
