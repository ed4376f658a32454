"""Several data sets in one run, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Rows(Protocol):
    """A data set whose rows can be had by index: a list, `JsonLines`, a Hugging Face `Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def rows_of_epoch(count: int, weight: float, seed: int) -> NDArray[np.int64]:
    """Return the rows of a data set that an epoch passes through.

    That is all of them as often as the weight is whole, and of its fraction a random choice, the same in every epoch.

    Raises:
        ValueError: The weight is not positive, or leaves no row.
    """
    whole, part = divmod(round(weight * count), count)
    if weight <= 0 or whole + part == 0:
        raise ValueError(f"the weight {weight} of a data set leaves none of its {count} rows")
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:part])
    return np.concatenate([*[np.arange(count)] * whole, chosen])


class Mixture:
    """Data sets as one: in an epoch, each is passed through as many times as its weight says.

    Args:
        datasets: The data sets.
        weights: A weight for each; all 1 if None.
        seed: Seed of the choice where a weight is not whole.

    Raises:
        ValueError: The weights are not as many as the data sets, or leave one without rows.
    """

    def __init__(self, datasets: Sequence[Rows], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        weights = [1.0] * len(datasets) if weights is None else weights
        if len(weights) != len(datasets):
            raise ValueError(f"expected a weight for each of {len(datasets)} data sets, got {len(weights)}")
        self.datasets = list(datasets)
        places = []
        for number, (rows, weight) in enumerate(zip(self.datasets, weights, strict=True)):
            chosen = rows_of_epoch(len(rows), weight, seed)
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
