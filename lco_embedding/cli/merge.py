"""`lco-embedding merge`: an adapter into the whole of its base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lco_embedding.atomic_writes import require_free
from lco_embedding.cli.arguments import option, parse


@dataclass(frozen=True, kw_only=True)
class MergeArguments:
    """Merge a LoRA adapter, such as a checkpoint of a training, into its base model: a plain checkpoint."""

    adapter: str = option("folder or Hub id of the adapter", positional=True)
    output: str = option("folder to write", positional=True)
    revision: str | None = option("revision of an adapter of the Hub", None)
    dtype: str | None = option(
        "dtype of the weights; that of the base by default", None, choices=("float32", "bfloat16", "float16")
    )


def main(argv: Sequence[str]) -> int:
    """Merge.

    Returns:
        0.

    Raises:
        FileExistsError: The output is there and not empty.
    """
    arguments = parse(MergeArguments, argv, "lco-embedding merge")
    output = require_free(arguments.output)
    from lco_embedding.training.lora import merge_adapter

    merge_adapter(arguments.adapter, output, arguments.dtype, arguments.revision)
    print(f"written to {output}")
    return 0
