"""Embed the sample files of all four modalities, show what matches what, then train and measure.

python examples/quickstart.py [--skip-training] [--model FOLDER_OR_HUB_ID]

The training is the claim of LCO-Emb in miniature: a generative model that was never trained to embed, 100 steps on
triplets of sentences alone, and a search for pictures, sounds and clips, which the training never saw.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers.utils import logging

from lco_embedding import LCOEmbedding

SAMPLES = Path(__file__).parents[1] / "samples"
KINDS = ("image", "sound", "clip")


def main() -> None:
    """Embed, match, train and search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id; the miniature that ships in the package by default")
    parser.add_argument("--skip-training", action="store_true", help="only embed the samples")
    arguments = parser.parse_args()

    logging.disable_progress_bar()
    model = LCOEmbedding(arguments.model) if arguments.model else LCOEmbedding.miniature()
    match_samples(model)
    if not (arguments.skip_training or arguments.model):
        train_and_search()


def match_samples(model: LCOEmbedding) -> None:
    """Print the sentences that are nearest to each sample file."""
    sentences = (SAMPLES / "sentences.txt").read_text(encoding="utf8").splitlines()
    files = [path for folder in ("images", "sounds", "clips") for path in sorted((SAMPLES / folder).iterdir())]
    start = time.perf_counter()
    embeddings = model.encode([*sentences, *files])
    seconds = time.perf_counter() - start
    print(f"{len(embeddings)} texts and files -> {embeddings.shape[1]} dimensions each, in {seconds:.1f} s\n")
    scores = model.similarity(embeddings[len(sentences) :], embeddings[: len(sentences)])
    for path, row in zip(files, scores, strict=True):
        best = row.topk(2)
        print(f"{path.relative_to(SAMPLES)}")
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            print(f"    {score:.3f}  {sentences[index]}")


def train_and_search() -> None:
    """Train on text alone, from the generative base of the miniature, and search before and after."""
    from lco_embedding.checkpoints.builtin import checkpoint_of
    from lco_embedding.miniature.activation import activate

    base = checkpoint_of("miniature", "base")
    print(f"\nBefore: the generative base, asked for its embedding.\n{search(LCOEmbedding(base, device='cpu'))}")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        activate(base, folder)
        seconds = time.perf_counter() - start
        print(f"\nAfter training on text alone ({seconds:.0f} s):\n{search(LCOEmbedding(folder, device='cpu'))}")


def search(model: LCOEmbedding, count: int = 100) -> str:
    """Return a table of how well held-out scenes are found by their captions, and the other way round."""
    from lco_embedding.miniature.benchmark import evaluate

    results: dict[str, Any] = evaluate(model, count=count, kinds=KINDS)
    lines = [f"{'nDCG@10 among ' + str(count):<20}" + "".join(f"{kind:>20}" for kind in KINDS)]
    for name, keys in (
        ("text -> medium", [f"text to {kind}" for kind in KINDS]),
        ("medium -> text", [f"{kind} to text" for kind in KINDS]),
    ):
        lines.append(f"{name:<20}" + "".join(f"{_shown(results[key].ndcg[10]):>20}" for key in keys))
    return "\n".join(lines)


def _shown(estimate: Any) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


if __name__ == "__main__":
    main()
