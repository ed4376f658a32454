"""Plots of the analysis; they need matplotlib, `pip install 'lco-embedding[analysis]'`.

plot_layers({"image": (before, after), "text": (before, after)}, "mean cosine").savefig("anisotropy.png")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lco_embedding.evaluation.retrieval import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lco_embedding.analysis.scaling_law import ScalingLaw

SIZE = (6.0, 3.4)
"""Inches."""


def plot_layers(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> Figure:
    """Draw a figure by layer, before training dashed and after it whole, in a colour for each modality.

    Args:
        curves: For each modality, the figures of all layers before and after.
        label: What the figure is.
    """
    figure, axes = new_figure()
    for number, (name, (before, after)) in enumerate(curves.items()):
        axes.plot(range(len(before)), before, "--", color=f"C{number}", alpha=0.7)
        axes.plot(range(len(after)), after, "-o", color=f"C{number}", markersize=3, label=name)
    axes.set_xticks(range(max(len(after) for _, after in curves.values())))
    axes.set_xlabel("layer (dashed: before, solid: after)")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return figure


def plot_scaling_law(laws: Mapping[str, ScalingLaw], generation: str, representation: str) -> Figure:
    """Draw the points of each pair of modalities with their line.

    Args:
        laws: By pair.
        generation: What the score of generation is.
        representation: What the score of the embeddings is.
    """
    figure, axes = new_figure()
    for number, (pair, law) in enumerate(laws.items()):
        x = np.array([point.generation for point in law.points])
        y = np.array([point.representation for point in law.points])
        axes.scatter(x, y, s=14, color=f"C{number}", label=f"{pair}: r = {law.pearson.value:.2f}")
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, law.intercept + law.slope * ends, color=f"C{number}", alpha=0.5)
    axes.set_xlabel(generation)
    axes.set_ylabel(representation)
    axes.legend(fontsize=8)
    return figure


def plot_bars(groups: Mapping[str, Mapping[str, Estimate]], label: str) -> Figure:
    """Draw bars with intervals, side by side.

    Args:
        groups: For each name on the axis, its bars by their names.
        label: What the figure is.
    """
    figure, axes = new_figure()
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [place for place, bars in enumerate(groups.values()) if name in bars]
        shown = [bars[name] for bars in groups.values() if name in bars]
        values = np.array([each.value for each in shown])
        errors = np.array([[each.value - each.low for each in shown], [each.high - each.value for each in shown]])
        left = np.array(places) + (number - (len(names) - 1) / 2) * width
        axes.bar(left, values, width, yerr=np.maximum(errors, 0), capsize=2, label=name, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(groups)), list(groups), fontsize=8)
    axes.set_ylabel(label)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def new_figure() -> tuple[Figure, Any]:
    """Make a figure with one axis, that belongs to no window.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Made
    except ImportError as error:
        raise ImportError("plots need matplotlib; pip install 'lco-embedding[analysis]'") from error
    figure = Made(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()
