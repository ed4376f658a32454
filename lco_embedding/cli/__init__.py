"""The `lco-embedding` command: thin over the package.

Each command is a module with a `main` that takes the words after its name and returns an exit status. Nothing heavy is
imported before the arguments are understood, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from lco_embedding._version import __version__

DESCRIPTION = """\
Embed text, images, audio, video and mixtures of them in one space.

  lco-embedding encode photos/ sounds/ notes.txt pairs.jsonl --output embeddings.parquet
  lco-embedding similarity "a red circle" photos/circle.png sounds/bell.wav
  lco-embedding train text_only --model Qwen/Qwen2.5-Omni-3B --data nli.jsonl --output_dir lco-3b
"""

COMMANDS = {
    "encode": ("lco_embedding.cli.encode", "Embed files and write the embeddings to a table."),
    "similarity": ("lco_embedding.cli.similarity", "Print how similar inputs are to each other."),
    "world": ("lco_embedding.cli.world", "Write the miniature's world to a folder, to train and test on."),
    "pretrain": ("lco_embedding.training.generative", "Train a model to answer about media (stage 1)."),
    "train": ("lco_embedding.training.contrastive", "Train a model to embed (stage 2)."),
    "mine": ("lco_embedding.cli.mine", "Find hard negatives for training data."),
    "merge": ("lco_embedding.cli.merge", "Merge an adapter into the whole of its base model."),
    "soup": ("lco_embedding.cli.soup", "Average checkpoints or adapters."),
    "evaluate": ("lco_embedding.cli.evaluate", "Judge a model, by benchmarks of mteb or pairs of your own."),
    "reproduce": ("lco_embedding.cli.reproduce", "Try the claims of LCO-Emb on the miniature, and report on them."),
    "card": ("lco_embedding.cli.card", "Write the model card of a checkpoint."),
    "export": ("lco_embedding.cli.export", "Write a checkpoint in the layout that a loader or engine reads."),
    "publish": ("lco_embedding.cli.publish", "Verify a checkpoint and send it to the Hub."),
}
"""The module of each command, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: The arguments; those of the process unless given.
    """
    parser = argparse.ArgumentParser(
        prog="lco-embedding", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        parser.parse_args(words)
    try:
        return int(import_module(COMMANDS[words[0]][0]).main(words[1:]))
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        print(f"lco-embedding: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        # torch's error for memory; any other is a bug, whose traceback is needed.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"lco-embedding: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"lco-embedding: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
