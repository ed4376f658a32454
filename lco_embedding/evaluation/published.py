"""Figures that others have published, to read one's own beside; none of them was run here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFigure:
    """A mean over the tasks of a benchmark that a paper reports.

    Args:
        model: As the paper calls it.
        benchmark: Name of the benchmark in mteb.
        tasks: Of how many tasks it is the mean.
        mean: In percent.
        source: Where it was published.
    """

    model: str
    benchmark: str
    tasks: int
    mean: float
    source: str


LCO, MAEB = "arXiv 2510.11693", "arXiv 2602.16008"

PUBLISHED = (
    PublishedFigure("E5-V", "MIEB(lite)", 51, 51.9, LCO),
    PublishedFigure("Voyage-Multimodal-3", "MIEB(lite)", 51, 58.1, LCO),
    PublishedFigure("LCO-VL-7B, text-only", "MIEB(lite)", 51, 60.4, LCO),
    PublishedFigure("mmE5-11B", "MIEB(lite)", 51, 61.8, LCO),
    PublishedFigure("GME-7B", "MIEB(lite)", 51, 64.5, LCO),
    PublishedFigure("LCO-VL-7B, multimodal", "MIEB(lite)", 51, 67.6, LCO),
    PublishedFigure("LCO-Omni-7B, multimodal", "MIEB(lite)", 51, 68.8, LCO),
    PublishedFigure("LCO-7B", "MAEB(v1)", 30, 52.2, MAEB),
)
"""Figures of the papers of LCO-Emb and MAEB."""
