"""`lco-embedding export`: a checkpoint in another layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lco_embedding.cli.arguments import option, parse


@dataclass(frozen=True)
class ExportArguments:
    """Write a checkpoint in the layout that a loader or serving engine reads.

    thinker: the part that embeds with its language head; what Sentence Transformers and transformers read.
    omni: the same, named as in the whole Qwen2.5-Omni; what the native classes of serving engines read.
    adapter: the LoRA alone, which names its base; what PEFT reads.
    An adapter that is exported as one of the others is merged into its base.
    """

    folder: str = option("the checkpoint, in any layout", positional=True)
    output: str = option("folder to write, new or empty", positional=True)
    layout: str = option("what to write", "thinker", choices=("thinker", "omni", "adapter"))
    base_model: str | None = option("id of the base of an adapter, instead of that which it names", None)


def main(argv: Sequence[str]) -> int:
    """Write the checkpoint.

    Returns:
        0.
    """
    arguments = parse(ExportArguments, argv, "lco-embedding export")
    from lco_embedding.hub.layouts import export

    folder = export(arguments.folder, arguments.output, arguments.layout, arguments.base_model)  # type: ignore[arg-type]
    print(f"written to {folder}")
    return 0
