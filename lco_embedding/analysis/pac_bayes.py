"""What of the theorem behind the scaling law can be estimated from checkpoints; `docs/theory.md` explains it.

divergence = weight_divergence("base", "tuned")
divergence.kl               # nats between Gaussians around the two sets of weights: the price of moving
complexity_term(divergence.kl, examples=6400)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

RELATIVE_SIGMA = 0.1
"""Deviation of the Gaussians, as a share of the root mean square of each tensor of the base. No data choose it: figures
compare ways of training from one base, and mean nothing by themselves."""


@dataclass(frozen=True)
class WeightDivergence:
    """How far training has moved the weights.

    Args:
        kl: KL of the tuned to the base Gaussian in nats, summed over all tensors.
        relative: Length of the difference as a share of the length of the base, over the tensors that changed.
        changed: Parameters in tensors that changed.
        parameters: Parameters compared.
        stable_rank: Mean over changed matrices of |D|_F^2 / |D|_2^2, how many directions the change of a matrix takes.
    """

    kl: float
    relative: float
    changed: int
    parameters: int
    stable_rank: float


def weight_divergence(base: str | Path, tuned: str | Path, relative_sigma: float = RELATIVE_SIGMA) -> WeightDivergence:
    """Compare the weights of a base with those of a model trained from it, LoRA merged.

    Prior and posterior are taken as Gaussians N(w, s^2) around the weights, with the same s for both, in each tensor
    `relative_sigma` times the root mean square of the base. Then KL = |w' - w|^2 / (2 s^2). Under LoRA, only the
    adapted matrices differ, and those by a matrix of rank r.

    Args:
        base: Folder of safetensors.
        tuned: Folder of safetensors of the same architecture; tensors that only one of them has are left out.
        relative_sigma: Deviation, see above.

    Raises:
        ValueError: The folders hold no weights, share none, or differ in shapes.
    """
    before, after = dict(_tensors(Path(base))), dict(_tensors(Path(tuned)))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError(f"{base} and {tuned} have no weights in common")
    kl, moved, length, changed, parameters = 0.0, 0.0, 0.0, 0, 0
    stable: list[float] = []
    for name in shared:
        old, new = before[name], after[name]
        if old.shape != new.shape:
            raise ValueError(f"{name} has the shape {tuple(old.shape)} in {base}, {tuple(new.shape)} in {tuned}")
        parameters += old.numel()
        difference = new.double() - old.double()
        square = float(difference.square().sum())
        if square == 0:
            continue
        changed += old.numel()
        size = float(old.double().square().sum())
        # What begins at zero, such as a bias, has no scale of its own; that of the whole model would be arbitrary.
        kl += square * old.numel() / (2 * relative_sigma**2 * size) if size > 0 else 0.0
        moved, length = moved + square, length + size
        if old.ndim == 2:
            stable.append(square / float(torch.linalg.matrix_norm(difference, 2)) ** 2)
    relative = math.sqrt(moved / length) if length else 0.0
    return WeightDivergence(kl, relative, changed, parameters, sum(stable) / len(stable) if stable else 0.0)


def complexity_term(kl: float, examples: int, delta: float = 0.05) -> float:
    """Return what a PAC-Bayes bound adds for moving from the prior: sqrt((KL + ln(2 sqrt(n) / delta)) / (2 n)).

    That is the bound of McAllester, in Maurer's form, for losses between 0 and 1; a loss with a range of b pays b times
    as much.

    Args:
        kl: In nats.
        examples: Independent examples n of the contrastive training.
        delta: Chance that the bound fails.
    """
    if kl < 0 or examples < 1 or not 0 < delta < 1:
        raise ValueError(f"expected kl >= 0, examples >= 1 and 0 < delta < 1; got {kl}, {examples}, {delta}")
    return math.sqrt((kl + math.log(2 * math.sqrt(examples) / delta)) / (2 * examples))


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf8"))["weight_map"].values()))
    else:
        files = [SAFE_WEIGHTS_NAME]
    for file in files:
        if not (folder / file).is_file():
            raise ValueError(f"{folder} has no {file}; expected a folder of safetensors")
        with safe_open(folder / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a file handle, not a dict
                yield name, tensors.get_tensor(name)
