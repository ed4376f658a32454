"""The scaling law on synthetic points, against scipy; generation scores of a real checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lco_embedding.analysis.scaling_law import Point, fit, fit_pairs, generation_scores
from lco_embedding.data.json_lines import JsonLines
from lco_embedding.miniature.world.chats import Chats

X = np.array([0.1, 0.5, 0.9, 1.4, 2.0, 2.2])
NOISE = np.array([0.05, -0.04, 0.02, 0.03, -0.05, 0.01])


def points(y, pair: str = "text to image", seeds: int = 1) -> list[Point]:
    return [
        Point(f"model {number}", pair, float(x), float(value))
        for number, (x, value) in enumerate(zip(X, y, strict=True))
        for _ in range(seeds)
    ]


def test_a_line_is_found_again() -> None:
    law = fit(points(0.2 + 0.3 * X))
    assert (law.slope, law.intercept) == pytest.approx((0.3, 0.2))
    assert (law.pearson.value, law.pearson.low, law.pearson.high) == pytest.approx((1.0, 1.0, 1.0))
    assert law.spearman.value == pytest.approx(1.0)
    assert law.predict(10.0) == pytest.approx(3.2)
    for number, left in enumerate(law.left_out.values()):
        assert left.predicted == pytest.approx(left.actual) == pytest.approx(0.2 + 0.3 * X[number])


def test_fit_and_correlations_are_those_of_scipy() -> None:
    y = 0.2 + 0.3 * X + NOISE
    law, expected = fit(points(y)), stats.linregress(X, y)
    assert (law.slope, law.intercept, law.pearson.value) == pytest.approx(
        (expected.slope, expected.intercept, expected.rvalue)
    )
    assert law.spearman.value == pytest.approx(stats.spearmanr(X, y).statistic)
    assert law.pearson.low < law.pearson.value < law.pearson.high
    without = stats.linregress(X[1:], y[1:])
    assert law.left_out["model 0"].predicted == pytest.approx(without.intercept + without.slope * X[0])
    assert law.left_out["model 0"].pearson == pytest.approx(without.rvalue)


def test_what_falls_is_negative_and_what_is_noise_is_not_decided() -> None:
    assert fit(points(-X)).pearson.high < 0
    noise = fit(points(np.array([0.3, 0.1, 0.4, 0.1, 0.5, 0.2]))).pearson
    assert noise.low < 0 < noise.high


def test_seeds_of_a_model_do_not_count_as_models() -> None:
    y = 0.2 + 0.3 * X + 4 * NOISE
    one, many = fit(points(y)), fit(points(y, seeds=5))
    assert many.pearson.value == pytest.approx(one.pearson.value)
    assert many.pearson.low == pytest.approx(one.pearson.low)
    assert len(many.left_out) == 6


def test_pairs_are_fitted_apart() -> None:
    laws = fit_pairs([*points(X), *points(-X, "text to sound")])
    assert [law.slope for law in laws.values()] == pytest.approx([1.0, -1.0])
    with pytest.raises(ValueError, match="one pair"):
        fit([*points(X), *points(X, "other")])


def test_too_little_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 models or more"):
        fit(points(X)[:2])
    with pytest.raises(ValueError, match="must differ"):
        fit(points(np.ones(6)))
    with pytest.raises(ValueError, match="finite"):
        fit(points(np.where(X == 0.5, np.nan, X)))


def test_generation_scores_come_from_files_and_lists(tmp_path: Path) -> None:
    chats = Chats(6, 1, shares={"image": 1.0}, tasks={"question": 1.0})
    rows = [chats[index] for index in range(6)]
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}\n' * 2)
    scores = generation_scores("miniature", {"seen": rows, "file": JsonLines(path)})
    assert set(scores) == {"seen", "file"}
    for each in scores.values():
        assert each["nll"] > 0
        assert 0 <= each["exact"] <= each["accuracy"] <= 1
    # The base knows its world, not small talk.
    assert scores["seen"]["nll"] < scores["file"]["nll"]
