"""The shape of embeddings, on closed forms and against sums over all pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from lco_embedding.analysis import geometry as module
from lco_embedding.analysis.geometry import (
    alignment,
    anisotropy,
    by_layer,
    effective_rank,
    mean_cosines,
    modality_gap,
    uniformity,
)

ROWS = np.random.default_rng(0).normal(size=(60, 7)) + 1.0
OTHERS = np.random.default_rng(1).normal(size=(60, 7))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(np.ones((5, 3)), 1.0), (np.eye(4), 0.0), (np.array([[1.0, 0.0], [-2.0, 0.0]]), -1.0)],
)
def test_anisotropy_of_closed_forms(rows, expected: float) -> None:
    assert anisotropy(rows) == pytest.approx(expected, abs=1e-12)


def test_anisotropy_is_the_mean_over_all_pairs_whatever_the_lengths() -> None:
    assert anisotropy(ROWS) == pytest.approx(1 - pdist(ROWS, "cosine").mean())
    assert anisotropy(ROWS * np.arange(1, 61)[:, None]) == pytest.approx(anisotropy(ROWS))
    assert mean_cosines(ROWS).mean() == pytest.approx(anisotropy(ROWS))
    assert mean_cosines(np.array([[1.0, 0], [1, 0], [0, 1]])).tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_uniformity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uniformity(np.ones((5, 3))) == pytest.approx(0.0)
    assert uniformity(np.eye(4)) == pytest.approx(-4.0)  # all pairs are sqrt(2) apart
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    expected = math.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean())
    assert uniformity(ROWS) == pytest.approx(expected)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert uniformity(ROWS) == pytest.approx(expected)


def test_alignment() -> None:
    assert alignment(ROWS, 3 * ROWS) == pytest.approx(0.0)
    assert alignment(np.eye(3), -np.eye(3)) == pytest.approx(4.0)
    assert alignment(np.eye(3), -np.eye(3), alpha=1) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="equal shapes"):
        alignment(ROWS, OTHERS[:5])


def test_modality_gap() -> None:
    assert modality_gap(ROWS, ROWS[::-1]) == pytest.approx(0.0)
    assert modality_gap(np.array([[5.0, 0.0]]), np.array([[0.0, 2.0], [0.0, 1.0]])) == pytest.approx(math.sqrt(2))


def test_effective_rank() -> None:
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    assert effective_rank(np.outer(np.arange(1, 5), [1.0, 2.0])) == pytest.approx(1.0)
    assert effective_rank(np.ones((4, 3)), center=True) == 0.0
    # Singular values 3 and 1: shares 3/4 and 1/4.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(expected)


def test_figures_do_not_change_under_rotation() -> None:
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(7, 7)))[0]
    for measure in (anisotropy, uniformity, effective_rank):
        assert measure(ROWS @ rotation) == pytest.approx(measure(ROWS))
    for measure in (alignment, modality_gap):
        assert measure(ROWS @ rotation, OTHERS @ rotation) == pytest.approx(measure(ROWS, OTHERS))


def test_by_layer() -> None:
    stack = np.stack([ROWS, OTHERS])
    assert by_layer(anisotropy, stack).tolist() == [anisotropy(ROWS), anisotropy(OTHERS)]
    assert by_layer(modality_gap, stack, stack[::-1]).tolist() == [modality_gap(ROWS, OTHERS)] * 2


def test_bad_rows_are_named() -> None:
    rows = ROWS.copy()
    rows[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"rows \[3\]"):
        anisotropy(rows)
    with pytest.raises(ValueError, match="2 or more"):
        anisotropy(ROWS[:1])
