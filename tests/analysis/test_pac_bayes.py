"""What of the theorem can be estimated: closed forms of the KL between Gaussians, and the price of a bound."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lco_embedding.analysis.pac_bayes import complexity_term, weight_divergence


def write(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_no_change_costs_nothing(tmp_path: Path) -> None:
    base = write(tmp_path / "a", w=torch.randn(4, 3))
    found = weight_divergence(base, base)
    assert (found.kl, found.relative, found.changed, found.parameters) == (0.0, 0.0, 0, 12)


def test_divergence_is_the_kl_of_gaussians(tmp_path: Path) -> None:
    old, bias = torch.full((4, 3), 2.0), torch.ones(5)
    change = torch.outer(torch.arange(4.0), torch.tensor([1.0, 0.0, -1.0]))
    base = write(tmp_path / "a", w=old, b=bias)
    tuned = write(tmp_path / "b", w=old + change, b=bias)
    found = weight_divergence(base, tuned, relative_sigma=0.25)
    sigma = 0.25 * 2.0
    gaussians = [torch.distributions.Normal(each.double(), sigma) for each in (old + change, old)]
    assert found.kl == pytest.approx(float(torch.distributions.kl_divergence(*gaussians).sum()))
    assert found.changed == 12
    assert found.parameters == 17
    assert found.stable_rank == pytest.approx(1.0)  # a product of two vectors
    assert found.relative == pytest.approx(float(change.norm() / old.norm()))
    half = weight_divergence(base, tuned, relative_sigma=0.5)
    assert half.kl == pytest.approx(found.kl / 4)


def test_what_can_not_be_compared_is_an_error(tmp_path: Path) -> None:
    base = write(tmp_path / "a", w=torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"w has the shape \(2, 2\)"):
        weight_divergence(base, write(tmp_path / "b", w=torch.ones(2, 3)))
    with pytest.raises(ValueError, match="no weights in common"):
        weight_divergence(base, write(tmp_path / "c", v=torch.ones(2, 2)))
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        weight_divergence(base, tmp_path)


def test_price() -> None:
    assert complexity_term(0.0, 100, 0.05) == pytest.approx(math.sqrt(math.log(2 * 10 / 0.05) / 200))
    assert complexity_term(50.0, 1000) > complexity_term(5.0, 1000) > complexity_term(5.0, 10_000)
    with pytest.raises(ValueError, match="kl >= 0"):
        complexity_term(-1.0, 10)
