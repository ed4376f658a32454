"""Claims, judged by intervals: what does not hold is told as not holding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lco_embedding.evaluation.retrieval import CONFIDENCE, Estimate

Values = NDArray[np.float64]
Verdict = Literal["holds", "does not hold", "not decided"]

RESAMPLES = 2000


@dataclass(frozen=True)
class Claim:
    """Something that is said to be greater than zero, or within a margin of it.

    Args:
        text: What is claimed.
        estimate: The difference or correlation that it is about, with its interval.
        margin: None if it must be above 0, else how near to 0 it must be.
    """

    text: str
    estimate: Estimate
    margin: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Judge: by where the whole interval lies. One that reaches over the border decides nothing."""
        low, high = self.estimate.low, self.estimate.high
        if self.margin is None:
            return "holds" if low > 0 else "does not hold" if high < 0 else "not decided"
        if -self.margin < low and high < self.margin:
            return "holds"
        return "does not hold" if low > self.margin or high < -self.margin else "not decided"


def interval(values: Values, spread: float = 1.0, seed: int = 0) -> Estimate:
    """Return the mean over seeds and examples, with an interval over both.

    Args:
        values: Shape (seeds, examples).
        spread: Factor on deviations of examples, see [`difference`].
        seed: Seed of the resampling.
    """
    return difference(values, np.zeros((1, values.shape[1])), spread, seed)


def difference(after: Values, before: Values, spread: float = 1.0, seed: int = 0) -> Estimate:
    """Return the mean difference, with a percentile bootstrap interval over seeds and examples.

    Examples are paired, so that what makes one hard on both sides does not widen the interval; seeds of either side
    are resampled for themselves. With one seed, an interval says nothing about training anew.

    Args:
        after: Shape (seeds, examples).
        before: Shape (other seeds, examples).
        spread: Factor on the deviations of examples from their mean: 1 for figures of single examples; 2 for means of
            an example with all others, as cosines are, whose mean varies so much more (a U-statistic of pairs).
        seed: Seed of the resampling.

    Raises:
        ValueError: The examples are not the same.
    """
    if after.ndim != 2 or before.ndim != 2 or after.shape[1] != before.shape[1]:
        raise ValueError(f"expected (seeds, examples) of the same examples; got {after.shape} and {before.shape}")
    rng = np.random.default_rng(seed)
    drawn = []
    for side in (after, before):
        mean = side.mean(axis=1, keepdims=True)
        # How often each seed is drawn, as a share: (resamples, seeds); then the mean over them: (resamples, examples).
        drawn.append(_draws(rng, len(side)) @ (mean + spread * (side - mean)))
    means = ((drawn[0] - drawn[1]) * _draws(rng, after.shape[1])).sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(after.mean() - before.mean()), float(low), float(high))


def _draws(rng: np.random.Generator, count: int) -> Values:
    """Draw with replacement: for each resample, the share of each of `count` things in as many draws."""
    shares: Values = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    return shares
