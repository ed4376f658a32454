"""Embed the sample files of all four modalities, and show what matches what.

python examples/quickstart.py [--model FOLDER_OR_HUB_ID]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from lco_embedding import LCOEmbedding

SAMPLES = Path(__file__).parents[1] / "samples"


def main() -> None:
    """Embed everything in one call and print the nearest inputs of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id; the miniature that ships in the package by default")
    arguments = parser.parse_args()

    model = LCOEmbedding(arguments.model) if arguments.model else LCOEmbedding.miniature()
    names, inputs = samples()
    start = time.perf_counter()
    embeddings = model.encode(inputs)
    seconds = time.perf_counter() - start
    print(f"{len(inputs)} inputs -> {embeddings.shape[1]} dimensions each, in {seconds:.1f} s\n")

    scores = model.similarity(embeddings, embeddings).fill_diagonal_(-1)
    width = max(map(len, names))
    print(f"{'input':<{width}}   nearest other input")
    for index, name in enumerate(names):
        nearest = int(scores[index].argmax())
        print(f"{name:<{width}}   {names[nearest]} ({scores[index, nearest]:.3f})")
    if not arguments.model:
        print(
            "\nThe miniature has the architecture of the real models but random weights: it groups inputs by their "
            "form, not by their meaning.\nPass --model LCO-Embedding/LCO-Embedding-Omni-3B for embeddings that mean "
            "something."
        )


def samples() -> tuple[list[str], list[Any]]:
    """Return the names and the inputs of all samples: sentences, files and mixtures."""
    names: list[str] = []
    inputs: list[Any] = []
    for sentence in (SAMPLES / "sentences.txt").read_text(encoding="utf8").splitlines():
        names.append(f'"{sentence}"')
        inputs.append(sentence)
    for folder in ("images", "sounds", "clips"):
        for path in sorted((SAMPLES / folder).iterdir()):
            names.append(f"{folder}/{path.name}")
            inputs.append(path)
    for line in (SAMPLES / "index.jsonl").read_text(encoding="utf8").splitlines():
        row = json.loads(line)
        names.append(row.pop("id"))
        inputs.append({key: value if key == "text" else SAMPLES / value for key, value in row.items()})
    return names, inputs


if __name__ == "__main__":
    main()
