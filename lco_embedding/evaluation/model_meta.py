"""What mteb files with the results of a model: its name, revision, modalities, sizes, and what it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mteb.models import ModelMeta
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ScoringFunction
from mteb.types import OutputDType
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from lco_embedding.checkpoints.record import previous
from lco_embedding.evaluation.fingerprint import fingerprint, has_adapter
from lco_embedding.model import LCOEmbedding

OUTPUT_DTYPES = {torch.bfloat16: OutputDType.BF16, torch.float16: OutputDType.FLOAT16}


def describe_model(model: LCOEmbedding, name: str | None = None, revision: str | None = None) -> ModelMeta:
    """Describe a model that is loaded, wherever it came from and whatever has become of it.

    Args:
        model: The model.
        name: "organization/model"; that of where it came from unless given.
        revision: Under which results are filed; `fingerprint` unless given.
    """
    source = model.omni.model.name_or_path
    known = {} if Path(source).is_dir() else _known(source)
    return _meta(model, source, known | {"name": name or _name(source), "revision": revision or fingerprint(model)})


def describe_checkpoint(
    model: LCOEmbedding,
    source: str,
    loader: Callable[..., Any],
    name: str | None = None,
    revision: str | None = None,
    load_kwargs: Mapping[str, Any] | None = None,
) -> ModelMeta:
    """Describe a model that has just been loaded from a checkpoint.

    The revision of a Hub model is its commit, and what it was loaded with is filed as an experiment beside the results
    of the model as it is. That of a folder is its `fingerprint`, as what is in a folder changes, and so is that of an
    adapter, whose base is another repository.

    Args:
        model: The model.
        source: The folder or Hub id.
        loader: Loads it again by its Hub id.
        name: "organization/model"; that of the source unless given.
        revision: Branch, tag or commit that was asked for.
        load_kwargs: What else `LCOEmbedding` was given.
    """
    if Path(source).is_dir() or has_adapter(model):
        known = {} if Path(source).is_dir() else _known(source)
        return _meta(model, source, known | {"name": name or _name(source), "revision": fingerprint(model)})
    kwargs = dict(load_kwargs or {})
    config = cached_file(source, "config.json", revision=revision, cache_dir=kwargs.get("cache_folder"))
    commit = extract_commit_hash(config, None)
    private = ("token", "cache_folder", "local_files_only")
    experiment = {key: _plain(value) for key, value in kwargs.items() if value and key not in private}
    filed = {
        "loader": loader,
        "name": name or _name(source),
        "revision": commit or revision,
        "experiment_kwargs": experiment or None,
    }
    return _meta(model, source, _known(source) | filed)


def _meta(model: LCOEmbedding, source: str, values: Mapping[str, Any]) -> ModelMeta:
    parameters = list(model.parameters())
    record = _training_record(source)
    base = record.get("base")
    return ModelMeta.create_empty(
        {
            # The record names a folder without where it was, which tells mteb nothing.
            "adapted_from": base if isinstance(base, str) and "/" in base else None,
            "training_datasets": _training_data(record),
            **values,
            "modalities": sorted(model.omni.backbone.kinds),
            "n_parameters": sum(parameter.numel() for parameter in parameters),
            "n_embedding_parameters": model.omni.model.get_input_embeddings().weight.numel(),
            "memory_usage_mb": sum(parameter.nbytes for parameter in parameters) / (1 << 20),
            "max_tokens": model.omni.max_text_tokens,
            "embed_dim": model.truncate_dim or model.get_embedding_dimension(),
            "similarity_fn_name": ScoringFunction.from_str(model.similarity_fn_name),
            "framework": ["Sentence Transformers", "PyTorch"],
            # The prompts of the chat template: mteb counts a form that inputs must have.
            "use_instructions": True,
            "output_dtypes": OUTPUT_DTYPES.get(model.omni.model.dtype),
        }
    )


def _known(source: str) -> dict[str, Any]:
    """Return what mteb itself knows of a Hub model: license, languages, date, citation."""
    meta = MODEL_REGISTRY.get(source)
    known = {} if meta is None else {name: getattr(meta, name) for name in ModelMeta.model_fields}
    return {"open_weights": True, "reference": f"https://huggingface.co/{source}", **known, "loader": None}


def _name(source: str) -> str:
    is_hub_id = not Path(source).is_dir() and source.count("/") == 1
    return source if is_hub_id else f"local/{Path(source).name or 'model'}"


def _training_record(source: str) -> dict[str, Any]:
    record = previous(source)
    return record if isinstance(record, dict) else {}


def _training_data(record: Mapping[str, Any]) -> set[str] | None:
    """Return the names of the data of a record and of those before it; None if they name none."""
    names: set[str] = set()
    stage: Mapping[str, Any] | None = record
    while stage:
        names |= {name.removesuffix(".jsonl").removesuffix(".parquet").split(":")[0] for name in stage.get("data", [])}
        stage = stage.get("before")
    return names or None


def _plain(value: Any) -> Any:
    """Return an argument as mteb can write it in the name of a folder."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return value if isinstance(value, str | int | float | bool) else str(value)
