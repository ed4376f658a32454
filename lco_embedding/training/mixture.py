"""Several data sets in one run, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Rows(Protocol):
    """A data set whose rows can be had by index: a list, `JsonLines`, a Hugging Face `Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Mixture:
    """Data sets as one: in an epoch, each is passed through as many times as its weight says.

    A weight of 1 is the data set as it is, 2 is every row twice, 0.5 a random half of it (the same half in every
    epoch).

    Args:
        datasets: The data sets.
        weights: A weight for each; all 1 if None.
        seed: Seed of the choice where a weight is not whole.

    Raises:
        ValueError: The weights are not as many as the data sets, or not positive.
    """

    def __init__(self, datasets: Sequence[Rows], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        weights = [1.0] * len(datasets) if weights is None else weights
        if len(weights) != len(datasets) or not all(weight > 0 for weight in weights):
            raise ValueError(f"expected a positive weight for each of {len(datasets)} data sets, got {list(weights)}")
        rng = np.random.default_rng(seed)
        self.datasets = list(datasets)
        places = []
        for number, (rows, weight) in enumerate(zip(self.datasets, weights, strict=True)):
            whole, part = divmod(round(weight * len(rows)), len(rows))
            chosen = np.concatenate([*[np.arange(len(rows))] * whole, np.sort(rng.permutation(len(rows))[:part])])
            places.append(np.stack([np.full(len(chosen), number), chosen], axis=1))
        self._places = np.concatenate(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        number, row = self._places[index].tolist()
        return self.datasets[number][row]

    def name(self, index: int) -> str:
        """Return how errors name a row: its file and line where it comes from a file."""
        number, row = self._places[index].tolist()
        dataset = self.datasets[number]
        named = getattr(dataset, "name", None)
        return named(row) if callable(named) else f"row {row} of data set {number}"
