"""The record of a training run, written beside its checkpoint: what it was made of, and what came out."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import MISSING, Field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from lco_embedding._version import __version__
from lco_embedding.atomic_writes import write_text
from lco_embedding.checkpoints.record import NAME as NAME
from lco_embedding.checkpoints.record import previous as previous
from lco_embedding.model_cards import save_card
from lco_embedding.training.lora import ParameterCounts

LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate")

# Where things are on this machine and how it reports is nobody else's business, and would only make records differ.
PRIVATE = (
    *("output_dir", "logging_dir", "run_name", "resume_from_checkpoint"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token"),
    *("hub_private_repo", "hub_always_push", "hub_revision"),
    # These have a place of their own.
    *("recipe", "data", "eval_data", "model"),
)


def write_record(
    folder: str | Path,
    stage: str,
    arguments: Any,
    trainer: Trainer,
    parameters: ParameterCounts,
    figures: dict[str, float],
    seconds: float,
) -> None:
    """Write the record of a run, and the model card, which tells of it.

    Args:
        folder: The checkpoint.
        stage: What was done.
        arguments: The arguments dataclass of the run, of which those that differ from their defaults are written.
        trainer: Its trainer, after training.
        parameters: How many parameters were trained.
        figures: Of the last evaluation.
        seconds: How long it took.
    """
    earlier = previous(arguments.model)
    if earlier is not None:
        # The curve is in the record of the base; its ends tell enough here.
        earlier["losses"] = [*earlier["losses"][:1], *earlier["losses"][-1:]]
    record = {
        "stage": stage,
        "recipe": arguments.recipe,
        "base": _base_name(arguments.model),
        "data": [Path(path).name if Path(path).exists() else path for path in arguments.data],
        "rows": len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None,
        "steps": trainer.state.global_step,
        "minutes": round(seconds / 60, 1),
        "parameters": {"trained": parameters.trainable, "frozen": parameters.frozen},
        "arguments": changed(arguments),
        "figures": figures,
        "losses": [
            {"step": entry["step"], "loss": entry["loss"]} for entry in trainer.state.log_history if "loss" in entry
        ],
        "versions": {
            "lco-embedding": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "device": str(trainer.args.device),
        "hardware": _hardware(trainer.args.device),
        "processes": trainer.args.world_size,
        "before": earlier,
    }
    write_text(Path(folder, NAME), json.dumps(record, indent=2) + "\n")
    save_card(folder)


def changed(arguments: Any) -> dict[str, Any]:
    """Return the arguments that differ from their defaults, without paths and secrets."""
    # Not those of an instance: making one would reset what accelerate knows of the other processes.
    named = {entry.name: entry for entry in fields(arguments) if entry.init and entry.name not in PRIVATE}
    values = {name: getattr(arguments, name) for name in named}
    kept = {name: value for name, value in values.items() if value != _default(named[name])}
    # Lists and dicts that are empty are what the arguments make of options that are not given.
    return {key: value for key, value in kept.items() if _is_plain(value) and value not in ([], {})} | {
        "seed": arguments.seed
    }


def _default(entry: Field[Any]) -> Any:
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} with {os.cpu_count()} cores"


def _base_name(model: str) -> str:
    return Path(model).name if Path(model).is_dir() else model


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list | dict)
