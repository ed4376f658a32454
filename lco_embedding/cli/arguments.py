"""Arguments of commands: one dataclass for each, whose help texts are the documentation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from lco_embedding.model import LCOEmbedding

Arguments = TypeVar("Arguments")


def option(help: str, default: Any = MISSING, **metadata: Any) -> Any:
    """Return a field of an arguments dataclass.

    Args:
        help: What it means.
        default: False makes a flag, and a tuple an option of several values; its type is that of the values.
        **metadata: `positional` for what has no flag (several values if the default is a tuple); `choices`; `type`
            of the values where the default does not tell it.
    """
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which model, and where it runs."""

    model: str = option(
        "folder or Hub id of the model; 'miniature' is the small one that ships in the package", "miniature"
    )
    revision: str | None = option("revision of a Hub model: branch, tag or commit", None)
    device: str | None = option("device such as cpu, cuda or mps; the best one by default", None)
    dtype: str | None = option(
        "dtype of the weights; that of the checkpoint by default", None, choices=("float32", "bfloat16", "float16")
    )
    batch_size: int | None = option("inputs in a batch, at most; their tokens decide before that", None, type=int)
    max_batch_tokens: int | None = option(
        "tokens in a batch, at most; found from the device and its memory by default", None, type=int
    )
    load_audio_from_video: bool = option("hear the sound track of videos together with their frames", False)

    def load(self) -> LCOEmbedding:
        """Load the model.

        Raises:
            ValueError: There is no such device.
        """
        import torch

        from lco_embedding.model import LCOEmbedding

        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {self.device} can't be used: {str(error).splitlines()[0]}") from error
        kwargs: dict[str, Any] = {"device": self.device, "revision": self.revision}
        if self.dtype:
            kwargs["model_kwargs"] = {"dtype": self.dtype}
        if self.model == "miniature":
            return LCOEmbedding.miniature(**kwargs)
        return LCOEmbedding(self.model, **kwargs)

    def encode_options(self) -> dict[str, Any]:
        """Return the arguments for `LCOEmbedding.encode`.

        Raises:
            ValueError: A size of batches is not positive.
        """
        options: dict[str, Any] = {"batch_size": self.batch_size, "max_batch_tokens": self.max_batch_tokens}
        options = {name: value for name, value in options.items() if value is not None}
        for name, value in options.items():
            if value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.load_audio_from_video:
            options["load_audio_from_video"] = True
        return {**options, "show_progress_bar": False}


def parse(arguments: type[Arguments], argv: Sequence[str], prog: str) -> Arguments:
    """Parse a command line into an arguments dataclass, or print its help and exit.

    Args:
        arguments: The dataclass; its fields are made by `option`, and its docstring describes the command.
        argv: The words after the name of the command.
        prog: How the command is called, for its help.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=(arguments.__doc__ or "").replace("\n    ", "\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for entry in fields(arguments):  # type: ignore[arg-type]
        _add_argument(parser, entry)
    given = vars(parser.parse_args(argv))
    return arguments(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def _add_argument(parser: argparse.ArgumentParser, entry: Field[Any]) -> None:
    default, text = entry.default, entry.metadata["help"]
    several = isinstance(default, tuple)
    options: dict[str, Any] = {"help": text, "choices": entry.metadata.get("choices")}
    options["type"] = entry.metadata.get("type", str if several or default in (None, MISSING) else type(default))
    if several:
        options["nargs"] = "+"
    if entry.metadata.get("positional"):
        parser.add_argument(entry.name, metavar=entry.name.upper(), **options)
        return
    flag = "--" + entry.name.replace("_", "-")
    if isinstance(default, bool):
        parser.add_argument(flag, action="store_true", help=text)
        return
    if default is MISSING:
        parser.add_argument(flag, required=True, **options)
        return
    if default is not None and default != ():
        options["help"] += f" (default: {' '.join(map(str, default)) if several else default})"
    parser.add_argument(flag, default=default, **options)
