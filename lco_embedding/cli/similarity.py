"""`lco-embedding similarity`: how similar some inputs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lco_embedding.cli.arguments import ModelArguments, option, parse


@dataclass(frozen=True)
class SimilarityArguments(ModelArguments):
    """Print how similar inputs are to each other: cosines, from -1 to 1.

    An input is the path of a media file, or else a text.
    """

    inputs: tuple[str, ...] = option("two or more texts and paths", (), positional=True)


def main(argv: Sequence[str]) -> int:
    """Print the table of similarities.

    Returns:
        0.
    """
    arguments = parse(SimilarityArguments, argv, "lco-embedding similarity")
    if len(arguments.inputs) < 2:
        raise ValueError("similarity needs at least two inputs")
    options = arguments.encode_options()
    model = arguments.load()
    embeddings = model.encode(list(arguments.inputs), **options)
    scores = model.similarity(embeddings, embeddings)
    print(format_table(arguments.inputs, scores.tolist()))
    return 0


def format_table(names: Sequence[str], scores: Sequence[Sequence[float]]) -> str:
    """Lay out a square of scores with its names at the left and their numbers above."""
    shown = [name if len(name) <= 40 else name[:18] + "..." + name[-19:] for name in names]
    width = max(map(len, shown))
    digits = len(str(len(names)))
    lines = [" " * (digits + width + 4) + "".join(f"{number:>7}" for number in range(1, len(names) + 1))]
    for number, (name, row) in enumerate(zip(shown, scores, strict=True), start=1):
        lines.append(f"{number:>{digits}}  {name:<{width}}  " + "".join(f"{score:7.3f}" for score in row))
    return "\n".join(lines)
