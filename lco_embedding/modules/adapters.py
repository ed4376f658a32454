"""Put a LoRA adapter on a model, whatever class around it the adapter was trained on, and merge it."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PeftType, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file
from transformers.utils.hub import resolve_revision
from transformers.utils.peft_utils import find_adapter_config_file

PREFIX = "base_model.model."
"""What PEFT puts before every name of an adapter's weights."""


def commit_of(model_name_or_path: str, revision: str | None, **hub: Any) -> str | None:
    """Return the commit that a revision is now, so that all that is loaded with it comes from one state.

    It is a plain string: the revision that transformers resolves by itself still lists the chat templates of the branch
    that was asked for, wherever that has moved.

    Args:
        model_name_or_path: Folder or Hub id.
        revision: Branch, tag or commit; the main branch if None.
        **hub: `token`, `cache_dir`, `local_files_only`.

    Returns:
        The commit; the revision as it is for a folder, or where it can't be resolved.
    """
    resolved = resolve_revision(model_name_or_path, revision, **hub)
    commit: str | None = getattr(resolved, "resolved", resolved)
    return commit


def find_adapter(model_name_or_path: str, hub: dict[str, Any]) -> PeftConfig | None:
    """Return the configuration of the adapter that a checkpoint is, its base pinned to one commit.

    Args:
        model_name_or_path: Folder or Hub id.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Returns:
        The configuration, whose `revision` is that of the base; None if the checkpoint is no adapter.

    Raises:
        ValueError: The adapter does not name its base.
    """
    if find_adapter_config_file(model_name_or_path, **hub) is None:
        return None
    config = PeftConfig.from_pretrained(model_name_or_path, **hub)
    if not config.base_model_name_or_path:
        raise ValueError(f"the adapter {model_name_or_path} does not name its base model")
    elsewhere = {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
    config.revision = commit_of(config.base_model_name_or_path, config.revision, **elsewhere)
    return config


def attach_adapter(model: PreTrainedModel, adapter: str, config: PeftConfig, decoder: str, hub: dict[str, Any]) -> None:
    """Put a LoRA adapter on a model, for inference.

    Its weights are named as in the model that it was trained on: this one, the generation class around it, or the
    larger model around that. Each is put where its name leads, wherever it is; transformers would pass over those
    whose prefix it does not know.

    Args:
        model: The part that embeds.
        adapter: Folder or Hub id; only safetensors are read.
        config: Its configuration.
        decoder: Path of the decoder within the model, which older transformers left out of names.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: The adapter is of another type than LoRA, or has weights for layers that the model has not.
    """
    if config.peft_type != PeftType.LORA:
        raise ValueError(f"the adapter {adapter} is of type {config.peft_type}; only LoRA is supported")
    weights = load_file(cached_file(adapter, SAFETENSORS_WEIGHTS_NAME, **hub))
    modules = {name for name, _ in model.named_modules()}
    renamed, unknown = {}, []
    for key, tensor in weights.items():
        name = _own_name(key.removeprefix(PREFIX), modules, decoder)
        if name is None:
            unknown.append(key)
        else:
            renamed[PREFIX + name] = tensor
    if unknown:
        raise ValueError(
            f"the adapter {adapter} has {len(unknown)} weights for layers that {type(model).__name__} has not, the "
            f"first {unknown[0]}; was it trained on another backbone?"
        )
    config.target_modules = sorted({key[len(PREFIX) : key.index(".lora_")] for key in renamed if ".lora_" in key})
    config.inference_mode = True
    inject_adapter_in_model(config, model)
    report = set_peft_model_state_dict(model, renamed)
    missing = [key for key in report.missing_keys if ".lora_" in key or ".modules_to_save." in key]
    if missing or report.unexpected_keys:
        raise ValueError(
            f"the adapter {adapter} does not fit: {len(missing)} weights are missing, "
            f"{len(report.unexpected_keys)} unexpected, the first {[*missing, *report.unexpected_keys][0]}"
        )
    model._hf_peft_config_loaded = True
    model.requires_grad_(False)


def _own_name(key: str, modules: set[str], decoder: str) -> str | None:
    """Return the name of an adapter's weight in this model, None if it leads nowhere."""
    layer, mark, rest = key.partition(".lora_")
    if not mark:
        layer, _, rest = key.rpartition(".")
        mark = "."
    parts = layer.split(".")
    for start in range(len(parts)):
        suffix = ".".join(parts[start:])
        for name in (suffix, f"{decoder}.{suffix}"):
            if name in modules:
                return f"{name}{mark}{rest}"
    return None


def merge_lora(model: nn.Module) -> int:
    """Put the adapter of a model into its weights, in place.

    Returns:
        How many layers had an adapter.
    """
    adapted = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)
    ]
    for name, module in adapted:
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        else:
            plain = module.modules_to_save[module.active_adapters[0]]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    for module in model.modules():
        # The marks by which transformers knows a model with an adapter; without them it is saved whole.
        for mark in ("_hf_peft_config_loaded", "peft_config"):
            if mark in vars(module):
                delattr(module, mark)
    return len(adapted)
