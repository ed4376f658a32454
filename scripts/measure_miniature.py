"""Measure the miniature: the model that ships, and what text-only contrastive training brings out of its checkpoints.

    python scripts/measure_miniature.py --output docs/miniature.json     # about 20 minutes on 2 cores

Everything is on held-out scenes, in pools that are searched by unseen caption templates. The figures go to a JSON file
and, as a table, to the page beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from lco_embedding import LCOEmbedding
from lco_embedding.checkpoints.builtin import STAGES, checkpoint_of
from lco_embedding.miniature import architecture
from lco_embedding.miniature.activation import activate
from lco_embedding.miniature.benchmark import evaluate, word_accuracy
from lco_embedding.miniature.world.chats import Chats
from lco_embedding.training.record import previous

KINDS = ("image", "sound", "clip")
LIBRARIES = ("torch", "transformers", "sentence-transformers")


def measure(folder: str | Path, count: int) -> dict[str, Any]:
    """Return nDCG@10 in percent, with intervals, of every direction, and how many spoken words are found."""
    model = LCOEmbedding(folder, device="cpu", model_kwargs={"dtype": "float32"})
    results = evaluate(model, count=count)
    figures: dict[str, Any] = {
        name: [round(100 * value, 1) for value in (each.ndcg[10].value, each.ndcg[10].low, each.ndcg[10].high)]
        for name, each in results.items()
        if name != "mean"
    }
    words = word_accuracy(model)
    figures["spoken word"] = [round(100 * value, 1) for value in (words.value, words.low, words.high)]
    figures["mean"] = round(float(np.mean([figures[f"text to {kind}"][0] for kind in KINDS])), 1)
    return figures


def trained(base: str | Path, seed: int, count: int) -> dict[str, Any]:
    """Train a checkpoint on text alone, and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        activate(base, folder, seed=seed)
        seconds = time.perf_counter() - start
        return {**measure(folder, count), "seconds": round(seconds)}


def table(figures: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    names = [f"text to {kind}" for kind in KINDS] + [f"{kind} to text" for kind in KINDS] + ["spoken word"]
    lines = ["| | mean | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for name, row in figures.items():
        cells = [f"{row[key][0]} [{row[key][1]}, {row[key][2]}]" for key in names]
        lines.append(f"| {name} | {row['mean']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def put_table(page: Path, text: str) -> None:
    """Put a table in the place of the old one, between two marks, on a page that people wrote."""
    start, end = "<!-- figures -->", "<!-- end of figures -->"
    before, _, rest = page.read_text(encoding="utf8").partition(start)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf8")


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "miniature.json")
    parser.add_argument("--count", type=int, default=300, help="scenes in a pool")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    base = checkpoint_of("miniature", "base")
    rows: dict[str, Any] = {"the model that ships": measure(checkpoint_of("miniature"), arguments.count)}
    rows["its base, before"] = measure(base, arguments.count)
    for seed in range(arguments.seeds):
        rows[f"its base, after, seed {seed}"] = trained(base, seed, arguments.count)
    for stage in sorted(STAGES.iterdir()):
        rows[f"{stage.name}, after"] = trained(stage, 0, arguments.count)
    with tempfile.TemporaryDirectory() as folder:
        texts = [chat["messages"][0]["content"][0]["text"] for chat in Chats(2000, shares={"text": 1.0})]
        random = architecture.build(folder, texts, seed=1)
        rows["random weights, before"] = measure(random, arguments.count)
        rows["random weights, after"] = trained(random, 0, arguments.count)
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    result = {"count": arguments.count, "figures": rows, "versions": versions, "base": previous(base)}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf8")
    put_table(arguments.output.with_suffix(".md"), table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
