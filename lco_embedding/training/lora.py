"""What of a model is trained: full weights or LoRA of the decoder, towers frozen or not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from packaging.version import Version
from peft import LoraConfig
from torch import nn
from transformers import logging as transformers_logging
from transformers.integrations.peft import MIN_PEFT_VERSION

from lco_embedding.checkpoints.record import NAME as RECORD
from lco_embedding.model import LCOEmbedding
from lco_embedding.model_cards import save_card
from lco_embedding.modules.adapters import find_adapter, merge_lora
from lco_embedding.modules.backbones import Backbone
from lco_embedding.training.checkpoints import replacing_model

logger = transformers_logging.get_logger(__name__)

Decoder = Literal["lora", "full", "frozen"]
Towers = Literal["frozen", "full"]


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters are trained, and how many are held frozen."""

    trainable: int
    frozen: int

    def __str__(self) -> str:
        share = self.trainable / max(self.trainable + self.frozen, 1)
        return f"{self.trainable:,} parameters are trained ({share:.2%}), {self.frozen:,} are frozen"


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a model by whether they are trained."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return ParameterCounts(trainable, sum(p.numel() for p in model.parameters()) - trainable)


def set_trainable(model: nn.Module, backbone: Backbone, decoder: Decoder, towers: Towers) -> None:
    """Freeze or unfreeze the parts of a model, before an adapter is added.

    Args:
        model: The part that embeds, with or without its language head.
        backbone: Its record.
        decoder: Whether the decoder's own weights are trained; under "lora" they are not.
        towers: Whether the encoders and projectors are trained.
    """
    parts = dict.fromkeys(backbone.towers, towers == "full")
    for name, parameter in model.named_parameters():
        in_tower = next((train for part, train in parts.items() if part in name.split(".")), None)
        parameter.requires_grad_(decoder == "full" if in_tower is None else in_tower)


def hold_in_float32(model: nn.Module, dtype: str | None) -> None:
    """Hold the weights that are trained in float32; frozen ones stay as they are.

    A step of training is smaller than what bfloat16 can add to most weights: they would never move.

    Args:
        model: The model, of which what is trained requires gradients.
        dtype: The dtype that was asked for. Weights of the checkpoint itself that are trained then stay in it, with a
            warning if it is narrower than float32; new ones are in float32 in any case.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    narrow = [parameter for parameter in trained.values() if parameter.dtype.itemsize < torch.float32.itemsize]
    if dtype is None:
        for parameter in narrow:
            parameter.data = parameter.data.to(torch.float32)
    elif narrow:
        share = sum(parameter.numel() for parameter in narrow) / sum(
            parameter.numel() for parameter in trained.values()
        )
        logger.warning(
            f"dtype={dtype}: {share:.1%} of the weights that are trained are in {dtype}, in which most small updates "
            "are lost; leave dtype out to train in float32."
        )


def check_start(model: str, revision: str | None, decoder: Decoder) -> None:
    """Refuse a LoRA that can't be trained here, or on an adapter, which could not name what it was trained on.

    Other training than LoRA starts from the merged model.

    Args:
        model: Folder or Hub id that training starts from.
        revision: Of a Hub id.
        decoder: What is trained of the decoder.

    Raises:
        ImportError: transformers takes adapters only with a newer PEFT than is installed.
        ValueError: The model is an adapter, and LoRA is to be trained; it says what to do.
    """
    installed = version("peft")
    if decoder == "lora" and Version(installed) < Version(MIN_PEFT_VERSION):
        raise ImportError(
            f"transformers {version('transformers')} takes adapters only with peft>={MIN_PEFT_VERSION}, and "
            f"{installed} is installed: pip install 'lco-embedding[train]', which keeps to a transformers that fits"
        )
    if decoder == "lora" and find_adapter(model, {"revision": revision}) is not None:
        raise ValueError(
            f"{model} is an adapter, and a new LoRA on it would have no base to name; merge it first: "
            f"`lco-embedding merge {model} FOLDER`, then start from that folder"
        )


def lora_config(backbone: Backbone, r: int, alpha: float, dropout: float, towers: Towers = "frozen") -> LoraConfig:
    """Return the LoRA of the LCO recipes: on the linear layers of the decoder, none in the towers.

    Args:
        backbone: Whose decoder.
        r: Rank.
        alpha: Scale, of which alpha / r multiplies the update.
        dropout: Share of the inputs of the adapter that are dropped.
        towers: Whether the towers are trained beside it, whole; the adapter then holds them.
    """
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=backbone.lora_targets,
        modules_to_save=list(backbone.towers) if towers == "full" else None,
    )


def merge_adapter(
    adapter: str | Path, folder: str | Path, dtype: str | None = None, revision: str | None = None
) -> LCOEmbedding:
    """Merge an adapter into the whole of its base model, and write it as a plain checkpoint.

    Args:
        adapter: Folder or Hub id of the adapter.
        folder: Where to write, replacing a model there; the record of the adapter's training goes with it.
        dtype: Of the weights; that of the base by default.
        revision: Of an adapter of the Hub.

    Returns:
        The merged model, on the CPU.

    Raises:
        ValueError: It is no adapter.
    """
    model = LCOEmbedding(adapter, device="cpu", revision=revision, model_kwargs={"dtype": dtype or "auto"})
    if not merge_lora(model.omni.model):
        raise ValueError(f"{adapter} has no adapter to merge")
    with replacing_model(folder) as partial:
        model.save_pretrained(partial)
        if Path(adapter, RECORD).is_file():
            shutil.copyfile(Path(adapter, RECORD), partial / RECORD)
            save_card(partial)
    return model
