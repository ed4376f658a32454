"""Model soup: the weighted average of checkpoints of one architecture, or of LoRA adapters of one base.

    soup(["lco-nli", "lco-scale-1m"], "lco-soup")
    soup(["lco-nli", "lco-scale-1m"], "lco-soup", weights=[1, 3])

LCO-Emb (arXiv 2510.11693) so joins the strengths of runs on different data; the idea is of arXiv 2203.05482. The
weights are read, averaged and written tensor by tensor, so that the models need not fit into memory.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from lco_embedding.atomic_writes import atomic_folder, require_free
from lco_embedding.checkpoints.builtin import checkpoint_of
from lco_embedding.model_cards import LCOModelCardData, write_card
from lco_embedding.modules.adapters import exact_pattern, pattern_value
from lco_embedding.training.record import NAME as RECORD
from lco_embedding.training.record import previous

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors.index.json", "model.safetensors")
"""What the weights of a folder are called; the first that is there counts."""

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf")
"""Endings of files that hold weights in another format, many of them pickles: they are neither read nor copied."""

OF_THE_SOURCE = ("README.md", "trainer_state.json", RECORD)
"""Files that tell of the first source alone."""

NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
"""Keys of `config.json` that may differ: tensors are compared by their names and shapes."""

NOT_TARGETS = {
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("init_lora_weights", "inference_mode", "peft_version", "task_type", "auto_mapping"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
}
"""Keys of `adapter_config.json` that may differ: how large and how strong an adapter is, and how it was begun."""

NOT_A_PRODUCT = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "target_parameters"),
    *("arrow_config", "kasa_config", "monteclora_config"),
)
"""Settings with which the update of a layer is something else than a scale times B A."""

KEEPS_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the weights of the base as they are."""

LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?(?P<half>[AB])(?:\.weight)?")

Config = dict[str, Any]


@dataclass(frozen=True)
class _Half:
    """A or B of a LoRA: the module that it adapts, along which axis its rank lies (0 of A, 1 of B), and the rank."""

    module: str
    axis: int
    rank: int


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies and what its header says.

    Args:
        file: Path relative to the checkpoint.
        name: Name in the file.
        shape: Its shape; for a half of a LoRA with 0 in place of the rank.
        lora: Of which LoRA it is a half, if it is one.
        floating: Whether it holds floating-point numbers.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    lora: _Half | None
    floating: bool


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint as its headers describe it.

    Args:
        folder: Where it is.
        parts: Its folders of modules, relative; "" is the folder itself.
        tensors: Its tensors; the keys are names with the part before them.
        configs: For each part with weights, its configuration.
    """

    folder: Path
    parts: list[str]
    tensors: dict[str, _Place]
    configs: dict[str, Config]

    @property
    def adapter(self) -> Config | None:
        """The configuration of the adapter, None if it is a whole model."""
        path = self.folder / ADAPTER_CONFIG
        return json.loads(path.read_text(encoding="utf8")) if path.is_file() else None


def soup(sources: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None) -> Path:
    """Write the weighted average of some checkpoints.

    Whole models are averaged weight by weight, in float32. Of LoRA adapters the updates are averaged, which is not the
    same as averaging their A and B: all A and all weighted B are stacked, so that the rank of the result is the sum of
    the ranks, and its update exactly the average. What else an adapter holds (`modules_to_save`) is averaged.

    Args:
        sources: Folders, Hub ids, or "miniature". Their weights are safetensors.
        output: Folder to write; it appears when it is complete. Its data type, its shards, its tokenizer and its other
            files are those of the first source; a record and, for an embedding model or an adapter, a model card say
            what it was made of.
        weights: How much of each source goes in; they are divided by their sum. All alike if None.

    Returns:
        The folder.

    Raises:
        FileExistsError: The output is there and not empty.
        FileNotFoundError: A source has no safetensors.
        ValueError: The weights are not as many as the sources, positive and finite; the sources differ in architecture,
            in the names or shapes of tensors, or in tensors that can't be averaged; adapters differ in base or
            targets, or are no plain LoRA; or an average is not finite.
    """
    output = require_free(output)
    shares = _shares(sources, weights)
    checkpoints = [_read(_folder_of(source)) for source in sources]
    for checkpoint in checkpoints[1:]:
        _compare(checkpoints[0], checkpoint)
    merge = _Average(shares, checkpoints)
    with atomic_folder(output) as folder:
        _copy_others(checkpoints[0], folder)
        for file in dict.fromkeys(place.file for place in checkpoints[0].tensors.values()):
            _write_file(file, folder, checkpoints, merge)
        if merge.adapters:
            (folder / ADAPTER_CONFIG).write_text(json.dumps(merge.adapter_config(), indent=2), encoding="utf8")
        _write_record(folder, sources, checkpoints, shares)
        if merge.adapters or (folder / "modules.json").is_file():
            write_card(folder, LCOModelCardData(local_files_only=True))
    return output


def _shares(sources: Sequence[str | Path], weights: Sequence[float] | None) -> list[float]:
    if isinstance(sources, str | Path) or not sources:
        raise ValueError(f"sources must be a list of one or more folders or Hub ids, got {sources!r}")
    weights = [1.0] * len(sources) if weights is None else weights
    if len(weights) != len(sources) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"expected a positive, finite weight for each of {len(sources)} sources, got {list(weights)}")
    return [weight / math.fsum(weights) for weight in weights]


def _folder_of(source: str | Path) -> Path:
    name = checkpoint_of(str(source))
    if Path(name).is_dir():
        return Path(name)
    return Path(snapshot_download(name, ignore_patterns=[f"*{ending}" for ending in OTHER_WEIGHTS]))


# --- what there is ----------------------------------------------------------------------------------------------------


def _read(folder: Path) -> _Checkpoint:
    listing = folder / "modules.json"
    modules = json.loads(listing.read_text(encoding="utf8")) if listing.is_file() else []
    parts = list(dict.fromkeys(["", *(entry["path"] for entry in modules)]))
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    tensors: dict[str, _Place] = {}
    configs: dict[str, Config] = {}
    for part in parts:
        files = _weight_files(folder / part)
        for file in files:
            tensors |= _places(folder, Path(part, file), is_adapter and part == "")
        if files and (folder / part / "config.json").is_file():
            configs[part] = _config(folder / part)
    if not tensors:
        raise FileNotFoundError(
            f"{folder} has no safetensors ({', '.join(WEIGHTS)}); weights in pickles are not read: load the model and "
            "save it with save_pretrained"
        )
    if is_adapter and all(place.lora is None for place in tensors.values()):
        raise ValueError(f"{folder} has an {ADAPTER_CONFIG}, but no LoRA in its weights")
    return _Checkpoint(folder, parts, tensors, configs)


def _weight_files(folder: Path) -> list[str]:
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        pickles = sorted(path.name for path in folder.glob("*_model.bin"))
        if pickles:
            raise FileNotFoundError(
                f"{folder} holds {', '.join(pickles)} but no safetensors; weights in pickles are not read: load the "
                "model and save it with save_pretrained"
            )
        return []
    if not name.endswith(".json"):
        return [name]
    index = json.loads((folder / name).read_text(encoding="utf8"))
    return sorted(set(index["weight_map"].values()))


def _places(folder: Path, file: Path, is_adapter: bool) -> dict[str, _Place]:
    places = {}
    with safe_open(folder / file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            header = opened.get_slice(name)
            shape, lora = list(header.get_shape()), None
            found = LORA.fullmatch(name) if is_adapter else None
            if found:
                axis = "AB".index(found["half"])
                lora, shape[axis] = _Half(found["module"], axis, shape[axis]), 0
            floating = header.get_dtype().startswith(("F", "BF"))
            places[(file.parent / name).as_posix()] = _Place(file.as_posix(), name, tuple(shape), lora, floating)
    return places


def _config(folder: Path) -> Config:
    """Read a configuration; defaults that it leaves out are filled in, as versions of transformers differ in them."""
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    if "model_type" in config:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    return _without(config, NOT_ARCHITECTURE)


def _without(value: Config, ignored: set[str]) -> Config:
    return {
        key: _without(entry, ignored) if isinstance(entry, dict) else entry
        for key, entry in value.items()
        if key not in ignored
    }


# --- whether it fits together -----------------------------------------------------------------------------------------


def _compare(first: _Checkpoint, other: _Checkpoint) -> None:
    names = f"{first.folder} and {other.folder}"
    adapters = first.adapter, other.adapter
    if (adapters[0] is None) != (adapters[1] is None):
        raise ValueError(f"{names}: one is an adapter, one a whole model; merge the adapter into its base first")
    if adapters[0] is not None and adapters[1] is not None:
        keys = _differing(_comparable(adapters[0]), _comparable(adapters[1]))
        if keys:
            raise ValueError(
                f"{names} are not adapters of the same base and targets: their {ADAPTER_CONFIG} differ in {keys}"
            )
    for part in sorted(first.configs.keys() & other.configs.keys()):
        keys = _differing(first.configs[part], other.configs[part])
        if keys:
            raise ValueError(f"{names} differ in architecture: {Path(part, 'config.json')} has other {keys}")
    unshared = sorted(first.tensors.keys() ^ other.tensors.keys())
    if unshared:
        listed = f"{', '.join(unshared[:5])}{', ...' if len(unshared) > 5 else ''}"
        raise ValueError(f"{names} differ in {len(unshared)} tensor(s), which only one of them has: {listed}")
    for key, place in first.tensors.items():
        others = other.tensors[key]
        if (place.shape, place.floating) != (others.shape, others.floating):
            raise ValueError(
                f"{names}: the tensor {key} is {_describe(place)} in the one and {_describe(others)} in the other"
            )


def _comparable(config: Config) -> Config:
    targets = config.get("target_modules")
    settings = {key: value for key, value in config.items() if value and key not in NOT_TARGETS}
    return settings | {"target_modules": sorted(targets) if isinstance(targets, list) else targets}


def _differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key)))


def _describe(place: _Place) -> str:
    return f"{place.shape} {'floating' if place.floating else 'whole'} numbers"


# --- how it is averaged -----------------------------------------------------------------------------------------------


class _Average:
    """Averages tensors, and stacks the halves of LoRA.

    Args:
        shares: For each checkpoint its share; they sum to 1.
        checkpoints: What is averaged.

    Raises:
        ValueError: An adapter is no plain LoRA, or does not name its base.
    """

    def __init__(self, shares: Sequence[float], checkpoints: Sequence[_Checkpoint]) -> None:
        self.shares = shares
        self.checkpoints = checkpoints
        self.adapters = [adapter for checkpoint in checkpoints if (adapter := checkpoint.adapter) is not None]
        for checkpoint, adapter in zip(checkpoints, self.adapters, strict=False):
            _check_adapter(checkpoint.folder, adapter)

    def __call__(self, key: str, tensors: Iterator[Tensor]) -> Tensor:
        """Return what stands in the place of a tensor of all checkpoints, in the data type of the first."""
        place = self.checkpoints[0].tensors[key]
        first = next(tensors)
        if not place.floating:
            if not all(torch.equal(first, other) for other in tensors):
                raise ValueError(f"the tensor {key} holds whole numbers, which can't be averaged, and differs")
            return first
        merged = self._stack(place.lora, [first, *tensors]) if place.lora else self._mean(first, tensors)
        if not merged.isfinite().all():
            raise ValueError(f"the average of the tensor {key} is not finite; one of the sources may be broken")
        return merged.to(first.dtype)

    def _mean(self, first: Tensor, others: Iterator[Tensor]) -> Tensor:
        # A running mean leaves equal values exactly as they are, which a sum of products would not.
        mean, total = first.to(torch.float32, copy=True), self.shares[0]
        for tensor, share in zip(others, self.shares[1:], strict=True):
            total += share
            mean.lerp_(tensor.to(torch.float32), share / total)
        return mean

    def _stack(self, lora: _Half, tensors: Sequence[Tensor]) -> Tensor:
        """Stack A of shape (rank, inputs), or B of shape (outputs, rank) times its share and scale, along the rank."""
        halves = []
        for tensor, share, adapter in zip(tensors, self.shares, self.adapters, strict=True):
            factor = share * _scale(adapter, lora.module, tensor.shape[1]) if lora.axis == 1 else 1.0
            halves.append(tensor.to(torch.float32) * factor)
        return torch.cat(halves, dim=lora.axis)

    def adapter_config(self) -> Config:
        """Return the configuration of the adapter that the stacked halves make: its scale is 1."""
        ranks: Counter[str] = Counter()
        for checkpoint in self.checkpoints:
            halves = [place.lora for place in checkpoint.tensors.values() if place.lora]
            ranks.update({half.module: half.rank for half in halves if half.axis == 0})
        pattern = exact_pattern(ranks)
        rank = max(ranks.values())
        return {
            **self.adapters[0],
            **{"r": rank, "lora_alpha": rank, "use_rslora": False, "init_lora_weights": True},
            **{"rank_pattern": pattern, "alpha_pattern": pattern},
        }


def _check_adapter(folder: Path, config: Config) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{folder}: only LoRA adapters can be averaged, got {config.get('peft_type')}")
    if not config.get("base_model_name_or_path"):
        raise ValueError(f"{folder}: {ADAPTER_CONFIG} does not name the base of the adapter")
    odd = [key for key in NOT_A_PRODUCT if config.get(key)]
    if odd:
        raise ValueError(
            f"{folder}: adapters with {', '.join(odd)} can't be averaged; merge them into their base first"
        )
    begun = config.get("init_lora_weights", True)
    if begun not in KEEPS_THE_BASE:
        raise ValueError(
            f"{folder}: init_lora_weights={begun!r} changes the base; convert the adapter to plain LoRA first "
            "(PeftModel.save_pretrained with path_initial_model_for_weight_conversion)"
        )


def _scale(config: Config, module: str, rank: int) -> float:
    alpha: float = pattern_value(config.get("alpha_pattern"), module, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


# --- what is written --------------------------------------------------------------------------------------------------


def _copy_others(checkpoint: _Checkpoint, folder: Path) -> None:
    """Copy what is no weights and tells not of the source alone, from the folders of the modules."""
    for part in [*checkpoint.parts, "additional_chat_templates"]:
        for path in sorted((checkpoint.folder / part).glob("*")):
            is_weights = path.suffix in (".safetensors", *OTHER_WEIGHTS)
            if path.is_file() and not is_weights and path.name not in OF_THE_SOURCE and path.name[0] != ".":
                (folder / part).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / part / path.name)


def _write_file(file: str, folder: Path, checkpoints: Sequence[_Checkpoint], merge: _Average) -> None:
    with ExitStack() as stack:
        opened = cache(lambda path: stack.enter_context(safe_open(path, "pt")))
        tensors = {}
        for key, place in checkpoints[0].tensors.items():
            if place.file == file:
                places = [(checkpoint.folder, checkpoint.tensors[key]) for checkpoint in checkpoints]
                tensors[place.name] = merge(key, (opened(root / at.file).get_tensor(at.name) for root, at in places))
        source = checkpoints[0].folder / file
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / file, metadata=opened(source).metadata())
        # safetensors makes files that only their owner can read.
        shutil.copymode(source, folder / file)


def _write_record(
    folder: Path, sources: Sequence[str | Path], checkpoints: Sequence[_Checkpoint], shares: Sequence[float]
) -> None:
    parts = [
        {"name": Path(source).name if Path(source).is_dir() else str(source), "share": share}
        | {"before": previous(checkpoint.folder)}
        for source, checkpoint, share in zip(sources, checkpoints, shares, strict=True)
    ]
    (folder / RECORD).write_text(json.dumps({"stage": "soup", "sources": parts}, indent=2) + "\n", encoding="utf8")
