"""Put a LoRA adapter on a model, whatever class around it the adapter was trained on, and merge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from huggingface_hub.errors import RevisionNotFoundError
from peft import PeftConfig, PeftType, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file
from transformers.utils.hub import resolve_revision
from transformers.utils.peft_utils import find_adapter_config_file

from lco_embedding.modules.backbones import Backbone

PREFIX = "base_model.model."
"""What PEFT puts before every name of an adapter's weights; names in a model without a `PeftModel` have none."""

NO_LAYERS = ("trainable_token_indices", "target_parameters")
"""Settings of LoRA by which it adapts something else than whole layers."""

MERGE_WITH_PEFT = "merge it into its base with PEFT (merge_and_unload), save that, and load what was saved"

Value = TypeVar("Value")


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
        ValueError: The adapter does not name its base, its base is an adapter itself, or the commit of its base that it
            names is gone.
    """
    if find_adapter_config_file(model_name_or_path, **hub) is None:
        return None
    config = PeftConfig.from_pretrained(model_name_or_path, **hub)
    if not config.base_model_name_or_path:
        raise ValueError(f"the adapter {model_name_or_path} does not name its base model")
    elsewhere = {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
    base = config.base_model_name_or_path
    config.revision = commit_of(base, config.revision, **elsewhere)
    at_base = {**elsewhere, "revision": config.revision}
    try:
        base_is_adapter = find_adapter_config_file(base, **at_base) is not None
    except OSError as error:
        if not isinstance(error.__cause__, RevisionNotFoundError):
            raise
        raise ValueError(
            f"the adapter {model_name_or_path} was trained on {base} at {config.revision}, which is gone from the Hub; "
            'if its weights are there at another commit, name that as "revision" in adapter_config.json'
        ) from error
    if base_is_adapter:
        raise ValueError(
            f"the adapter {model_name_or_path} was trained on another adapter, {base}; merge that into its base first "
            "(lco-embedding merge), and name the merged model as base_model_name_or_path in adapter_config.json"
        )
    return config


def attach_adapter(
    model: PreTrainedModel, adapter: str, config: PeftConfig, backbone: Backbone, hub: dict[str, Any]
) -> None:
    """Put a LoRA adapter on a model, for inference.

    Its weights are named as in the model that it was trained on: this one, the generation class around it, or the
    larger model around that. Each is put where its name leads, wherever it is, with the rank and scale that PEFT gives
    it there; transformers would pass over those whose prefix it does not know. As in PEFT, LoRA is held in float32.

    Args:
        model: The part that embeds.
        adapter: Folder or Hub id; only safetensors are read.
        config: Its configuration.
        backbone: The record of the model.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: The adapter is of another type than LoRA, or has weights for layers that the model has not.
    """
    if config.peft_type != PeftType.LORA:
        raise ValueError(f"the adapter {adapter} is of type {config.peft_type}; only LoRA is supported")
    odd = [name for name in NO_LAYERS if getattr(config, name, None)]
    if odd:
        raise ValueError(f"the adapter {adapter} has {', '.join(odd)}, which is not supported; {MERGE_WITH_PEFT}")
    weights = load_file(cached_file(adapter, SAFETENSORS_WEIGHTS_NAME, **hub))
    modules = {name for name, _ in model.named_modules()}
    layers = {layer: _own_name(layer, modules, backbone) for layer in map(_layer_of, weights)}
    saved = {layer: _own_name(layer, modules, backbone) for layer in _saved_layers(layers, config.modules_to_save)}
    unknown = [key for key in weights if layers[_layer_of(key)] is None] or [x for x in saved if saved[x] is None]
    if unknown:
        head = [key for key in unknown if ".lm_head." in key]
        raise ValueError(
            f"the adapter {adapter} has weights of the language head ({head[0]}), which an embedding model leaves out; "
            f"{MERGE_WITH_PEFT}"
            if head
            else f"the adapter {adapter} has {len(unknown)} weights for layers that {type(model).__name__} has not, "
            f"the first {unknown[0]}; was it trained on another backbone, or are its towers not loaded?"
        )
    _rename(config, {layer: layers[layer] for layer in map(_layer_of, filter(_is_lora, weights))}, saved)
    config.inference_mode = True
    inject_adapter_in_model(config, model)
    cast_adapter_dtype(model, "default")
    named = {f"{layers[_layer_of(key)]}{key[len(PREFIX + _layer_of(key)) :]}": weights[key] for key in weights}
    put_weights(model, named, adapter)
    model._hf_peft_config_loaded = True
    model.requires_grad_(False)


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], adapter: str) -> None:
    """Put the weights of an adapter into a model that has its layers.

    Args:
        model: The model itself, with no `PeftModel` around it: names in it have no prefix.
        weights: By the names of the adapter's file that this model would write, with or without PEFT's prefix.
        adapter: How an error names it.

    Raises:
        ValueError: Some weights are missing, unexpected, or of another shape.
    """
    named = {key.removeprefix(PREFIX): tensor for key, tensor in weights.items()}
    try:
        report = set_peft_model_state_dict(model, named)
    except KeyError as error:
        raise ValueError(f"the adapter {adapter} does not fit: the weight {error} is missing") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n\t")[1:2])
        raise ValueError(f"the adapter {adapter} does not fit: {reason or error}") from error
    missing = [key for key in report.missing_keys if ".lora_" in key or ".modules_to_save." in key]
    if missing or report.unexpected_keys:
        raise ValueError(
            f"the adapter {adapter} does not fit: {len(missing)} weights are missing, "
            f"{len(report.unexpected_keys)} unexpected, the first {[*missing, *report.unexpected_keys][0]}"
        )


def pattern_value(pattern: Mapping[str, Value] | None, layer: str, default: Value) -> Value:
    """Return what `rank_pattern` or `alpha_pattern` says of a layer, as PEFT reads it.

    Args:
        pattern: Values by regular expressions that match the end of the layer's name; the first that does counts.
        layer: Name of the layer in the model that the adapter was trained on.
        default: For layers that no expression matches.
    """
    pattern = pattern or {}
    return pattern.get(get_pattern_key(list(pattern), layer), default)


def exact_pattern(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return a `rank_pattern` or `alpha_pattern` that gives each layer its value; an empty one if all are alike."""
    # A pattern holds for every layer whose name ends like it, and the first that fits counts: the longest first.
    by_length = sorted(values.items(), key=lambda entry: -len(entry[0]))
    return dict(by_length) if len(set(values.values())) > 1 else {}


def _rename(config: PeftConfig, layers: Mapping[str, str | None], saved: Mapping[str, str | None]) -> None:
    """Make a configuration name the layers as in this model: exactly those that the adapter has weights for."""
    ranks = {own: pattern_value(config.rank_pattern, layer, config.r) for layer, own in layers.items() if own}
    alphas = {
        own: pattern_value(config.alpha_pattern, layer, config.lora_alpha) for layer, own in layers.items() if own
    }
    config.rank_pattern, config.alpha_pattern = exact_pattern(ranks), exact_pattern(alphas)
    config.r, config.lora_alpha = max(ranks.values(), default=config.r), max(alphas.values(), default=config.lora_alpha)
    config.target_modules = sorted(ranks)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    if config.modules_to_save:
        config.modules_to_save = sorted(own for own in saved.values() if own)


def _is_lora(key: str) -> bool:
    return ".lora_" in key


def _layer_of(key: str) -> str:
    """Return the layer of an adapter's weight, as it is named in the model that the adapter was trained on."""
    name = key.removeprefix(PREFIX)
    for mark in (".lora_", ".base_layer."):
        if mark in name:
            return name.partition(mark)[0]
    return name.rpartition(".")[0]


def _saved_layers(layers: Iterable[str], modules_to_save: Sequence[str] | None) -> set[str]:
    """Return the layers that an adapter holds whole, out of all that it has weights for."""
    found = set()
    for layer in layers:
        parts = layer.split(".")
        above = (".".join(parts[:stop]) for stop in range(1, len(parts) + 1))
        # PEFT compares ends of names as well.
        whole = next((name for name in above if name.endswith(tuple(modules_to_save or ()))), None)
        found |= {whole} if whole else set()
    return found


def _own_name(layer: str, modules: set[str], backbone: Backbone) -> str | None:
    """Return the name of a layer in this model, None if it leads nowhere."""
    parts = layer.split(".")
    for start in range(len(parts)):
        suffix = ".".join(parts[start:])
        for name in (suffix, f"{backbone.decoder}.{suffix}"):
            if name in modules:
                return name
        if parts[start] in backbone.towers:
            # The layers of a tower that is not loaded are not those of the decoder, whatever their names.
            return None
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
    # The innermost first: a module that an adapter holds whole may have LoRA within.
    for name, module in reversed(adapted):
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
