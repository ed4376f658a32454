"""Plots hold what they were given, and say what is missing without matplotlib."""

from __future__ import annotations

import sys

import pytest

from lco_embedding.analysis.plots import plot_bars, plot_layers, plot_scaling_law
from lco_embedding.analysis.scaling_law import Point, fit
from lco_embedding.evaluation.retrieval import Estimate


def test_layers() -> None:
    (axes,) = plot_layers({"image": ([0.9, 0.8], [0.5, 0.1]), "text": ([0.7, 0.6], [0.2, 0.1])}, "mean cosine").axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.9, 0.8], [0.5, 0.1], [0.7, 0.6], [0.2, 0.1]]
    assert [line.get_linestyle() for line in axes.lines] == ["--", "-"] * 2
    assert axes.get_ylabel() == "mean cosine"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["image", "text"]


def test_bars() -> None:
    figure = plot_bars({"a": {"x": Estimate(0.5, 0.4, 0.7)}, "b": {"x": Estimate(0.2, 0.1, 0.3)}}, "nDCG@10")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0.2]


def test_scaling_law() -> None:
    law = fit([Point(str(x), "text to image", x, 2 * x) for x in (1.0, 2.0, 3.0)])
    (axes,) = plot_scaling_law({"text to image": law}, "x", "y").axes
    assert axes.collections[0].get_offsets().tolist() == [[1, 2], [2, 4], [3, 6]]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([2, 6])


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lco-embedding\[analysis\]'"):
        plot_bars({}, "")
