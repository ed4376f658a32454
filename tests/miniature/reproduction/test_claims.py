"""Verdicts follow from intervals, and intervals from what varies: a claim that does not hold is told so."""

from __future__ import annotations

import numpy as np
import pytest

from lco_embedding.evaluation.retrieval import Estimate
from lco_embedding.miniature.reproduction.claims import Claim, difference, interval


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.1, 0.3, None, "holds"),
        (-0.3, -0.1, None, "does not hold"),
        (-0.1, 0.1, None, "not decided"),
        (0.0, 0.1, None, "not decided"),
        (-0.01, 0.01, 0.02, "holds"),
        (0.03, 0.05, 0.02, "does not hold"),
        (-0.05, -0.03, 0.02, "does not hold"),
        (0.0, 0.05, 0.02, "not decided"),
        (float("nan"), float("nan"), None, "not decided"),
    ],
)
def test_verdicts(low: float, high: float, margin: float | None, verdict: str) -> None:
    assert Claim("", Estimate((low + high) / 2, low, high), margin).verdict == verdict


def test_what_got_worse_does_not_hold() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.4, 0.6, size=(1, 200))
    after = before - 0.1 + rng.normal(0, 0.02, size=(3, 200))
    assert Claim("rises", difference(after, before)).verdict == "does not hold"
    assert Claim("falls", difference(before, after)).verdict == "holds"
    assert Claim("rises", difference(before + rng.normal(0, 0.02, size=(3, 200)), before)).verdict == "not decided"


def test_examples_are_paired() -> None:
    # Examples vary by far more than the difference, which is the same for each.
    before = np.random.default_rng(1).uniform(0, 1, size=(1, 50))
    found = difference(before + 0.01, before)
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))


def test_seeds_that_disagree_widen_the_interval() -> None:
    examples = np.random.default_rng(2).uniform(0, 1, size=(1, 400))
    same = difference(np.repeat(examples, 3, axis=0) + 0.05, examples)
    apart = difference(np.concatenate([examples - 0.2, examples + 0.05, examples + 0.3]), examples)
    assert same.value == pytest.approx(apart.value)
    assert same.high - same.low < 1e-9
    assert apart.low < 0 < apart.high


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(60):
        found = interval(rng.normal(0.3, 1.0, size=(1, 100)), seed=seed)
        covered += found.low < 0.3 < found.high
    assert 50 <= covered <= 60


def test_cosines_with_all_others_vary_twice_as_much() -> None:
    # The mean cosine of pairs over fresh samples, against what one sample's interval says of it.
    from lco_embedding.analysis.geometry import anisotropy, mean_cosines

    rng = np.random.default_rng(4)
    samples = [rng.normal(size=(80, 4)) + np.array([1.5, 0, 0, 0]) for _ in range(200)]
    spread = np.std([anisotropy(rows) for rows in samples])
    widths = []
    for rows in samples[:10]:
        found = interval(mean_cosines(rows)[None], spread=2)
        widths.append((found.high - found.low) / (2 * 1.96))
    assert np.mean(widths) == pytest.approx(spread, rel=0.25)


def test_other_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="same examples"):
        difference(np.zeros((1, 3)), np.zeros((1, 4)))
