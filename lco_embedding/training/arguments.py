"""Arguments of the training commands: a recipe or a file in YAML, with options of the command line over it.

    lco-embedding pretrain miniature --data world/chat.jsonl --output_dir base
    lco-embedding pretrain my.yaml --learning_rate 1e-4

All options of the `TrainingArguments` of transformers are options here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import is_tensorboard_available
from transformers.trainer_utils import HubStrategy

RECIPES = Path(__file__).parent / "recipes"

Arguments = TypeVar("Arguments", bound=TrainingArguments)


@dataclass
class TuningArguments:
    """What is trained, on what: the arguments that the stages share."""

    recipe: str | None = field(default=None, metadata={"help": "name of the recipe, for the record of the run"})
    model: str = field(
        default="miniature",
        metadata={"help": "folder or Hub id of the model to start from; 'miniature' is the one that ships"},
    )
    revision: str | None = field(default=None, metadata={"help": "revision of a Hub model: branch, tag or commit"})
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "dtype of the weights; that of the checkpoint by default"}
    )
    data: list[str] = field(default_factory=list, metadata={"help": "JSON-lines files to train on"})
    weights: list[float] | None = field(
        default=None,
        metadata={"help": "for each of the data, how many times an epoch passes through it; 0.5 is a random half"},
    )
    eval_data: list[str] | None = field(
        default=None, metadata={"help": "files to evaluate on, each reported by its name"}
    )
    decoder: Literal["lora", "full", "frozen"] = field(
        default="lora", metadata={"help": "what is trained of the language decoder"}
    )
    towers: Literal["frozen", "full"] = field(
        default="frozen", metadata={"help": "what is trained of the encoders and projectors"}
    )
    lora_r: int = field(default=64, metadata={"help": "rank of LoRA"})
    lora_alpha: float = field(default=16, metadata={"help": "scale of LoRA, of which alpha / r multiplies its update"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout of LoRA"})
    max_length: int | None = field(default=None, metadata={"help": "tokens of text that are kept of an input"})
    processing_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'settings of media as JSON, such as \'{"image": {"max_pixels": 1003520}}\'; '
            "saved with the checkpoint"
        },
    )

    hub_strategy: str = field(
        default="end", metadata={"help": "only 'end': the finished model is verified and pushed, no checkpoints"}
    )

    def __post_init__(self) -> None:
        """Check, before anything is loaded, what is to be reported and pushed to.

        Raises:
            ImportError: Tensorboard is not installed.
            ValueError: Checkpoints are to be pushed.
        """
        super().__post_init__()  # type: ignore[misc]
        if getattr(self, "push_to_hub", False) and self.hub_strategy != "end":
            raise ValueError(
                f"hub_strategy={HubStrategy(self.hub_strategy).value} is not supported: no checkpoints are pushed on "
                "the way, only the finished model; leave it out"
            )
        if "tensorboard" in getattr(self, "report_to", ()) and not is_tensorboard_available():
            raise ImportError('report_to=tensorboard needs tensorboard: pip install "lco-embedding[tensorboard]"')


def check_best_metric(arguments: TrainingArguments, figures: Sequence[str]) -> None:
    """Check, before anything is loaded, that the figure is known by which the best checkpoint is told.

    Args:
        arguments: The arguments of the run.
        figures: Names of all that is measured, without "eval_".

    Raises:
        ValueError: It is none of them; they are listed.
    """
    metric = arguments.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in figures:
        raise ValueError(f"metric_for_best_model: there is no figure {metric!r}; there are {', '.join(figures)}")


def parse(arguments_class: type[Arguments], argv: Sequence[str], prog: str) -> Arguments:
    """Parse a command line into arguments.

    Args:
        arguments_class: Dataclass of the command.
        argv: Optionally a recipe or YAML file first, then options.
        prog: How the command is called, for its help.

    Raises:
        ValueError: The recipe is not known, or it or the command line holds what is no argument.
    """
    parser = HfArgumentParser(
        arguments_class, prog=f"{prog} [RECIPE | FILE.yaml]", description=arguments_class.__doc__, allow_abbrev=False
    )
    rest = list(argv)
    if rest and not rest[0].startswith("-"):
        parser.set_defaults(**read_recipe(rest.pop(0), arguments_class))
    # Before the arguments are made, whose own checks would hide a slip of the pen.
    _, unknown = parser.parse_known_args(rest)
    if unknown:
        raise ValueError(f"unknown: {' '.join(unknown)}; `{prog} --help` lists the options")
    (arguments,) = parser.parse_args_into_dataclasses(rest, look_for_args_file=False)
    parsed: Arguments = arguments
    return parsed


def read_recipe(name: str, arguments_class: type[TrainingArguments]) -> dict[str, Any]:
    """Read a recipe of the package by its name, or a YAML file by its path.

    Raises:
        ValueError: There is no such recipe or file, or it holds keys that are no arguments.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise ValueError(f"there is no recipe or file {name!r}; the recipes are {known}, a file ends in .yaml")
    recipe = yaml.safe_load(path.read_text(encoding="utf8")) or {}
    names = {entry.name for entry in fields(arguments_class)}
    unknown = sorted(set(recipe) - names) if isinstance(recipe, dict) else [type(recipe).__name__]
    if unknown:
        raise ValueError(f"{path} holds {', '.join(unknown)}, which {arguments_class.__name__} does not know")
    return {"recipe": path.stem, **recipe}
