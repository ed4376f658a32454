"""`lco-embedding soup`: the weighted average of checkpoints or adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lco_embedding.cli.arguments import option, parse


@dataclass(frozen=True, kw_only=True)
class SoupArguments:
    """Average checkpoints of one architecture, or LoRA adapters of one base, tensor by tensor."""

    sources: tuple[str, ...] = option("folders or Hub ids", (), positional=True)
    output: str = option("folder to write")
    weights: tuple[float, ...] = option("how much of each goes in; all alike by default", (), type=float)


def main(argv: Sequence[str]) -> int:
    """Average.

    Returns:
        0.
    """
    arguments = parse(SoupArguments, argv, "lco-embedding soup")
    from lco_embedding.training.model_soup import soup

    folder = soup(arguments.sources, arguments.output, arguments.weights or None)
    print(f"written to {folder}")
    return 0
