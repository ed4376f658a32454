"""What the files of a checkpoint say about it, without loading it."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lco_embedding.checkpoints.evaluations import Evaluation, read_evaluations
from lco_embedding.checkpoints.record import Record, previous
from lco_embedding.modules.backbones import BACKBONES, Backbone
from lco_embedding.modules.chat_template import read_prompts

Layout = Literal["generation", "omni", "adapter"]
"""How weights are named: as the part that embeds with its language head, as the larger model that this comes in, or an
adapter alone."""

ADAPTER_CONFIG = "adapter_config.json"

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of safetensors for the floating dtypes of torch."""

HEADER_LIMIT = 100_000_000
"""The longest header of a safetensors file that is read, in bytes (that of safetensors itself)."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header of its file states it."""

    dtype: str
    shape: tuple[int, ...]
    end: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[dict[str, Tensor], int]:
    """Read the header of a safetensors file.

    Returns:
        Its tensors by name, and how long the file must be, in bytes.

    Raises:
        ValueError: It is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_LIMIT:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        tensors = {
            name: Tensor(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path.name} is no safetensors file ({error})") from None
    return tensors, 8 + length + max((tensor.end for tensor in tensors.values()), default=0)


@dataclass
class Checkpoint:
    """What is known about a checkpoint.

    Args:
        name: To call it by.
        layout: Of its weights.
        backbone: Its architecture; None if that is not known, as of an adapter whose base is not at hand.
        architecture: The class that `config.json` names.
        is_embedder: Whether it has the modules of Sentence Transformers.
        dimension: Of its embeddings.
        parameters: How many, of the part that embeds and its head.
        dtype: Of most of them.
        bytes: Of the weights.
        processing: Its settings of the processing.
        prompts: What its chat template writes after content, by that content; see `read_prompts`.
        record: Of its training.
        adapter: Configuration of the adapter.
        evaluations: What was measured.
        plots: Of the analysis, as paths within the folder.
    """

    name: str
    layout: Layout = "generation"
    backbone: Backbone | None = None
    architecture: str | None = None
    is_embedder: bool = True
    dimension: int | None = None
    parameters: int | None = None
    dtype: str | None = None
    bytes: int | None = None
    processing: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    record: Record | None = None
    adapter: dict[str, Any] | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | Path) -> Checkpoint:
        """Read what the files of a folder say."""
        folder = Path(folder)
        config = _json(folder / "config.json")
        adapter = _json(folder / ADAPTER_CONFIG) or None
        modules = _json(folder / "modules.json") or []
        base_config = (
            {} if config or adapter is None else _json(Path(adapter["base_model_name_or_path"], "config.json"))
        )
        model_type = (config or base_config).get("model_type")
        backbone = next((b for b in BACKBONES if model_type in (b.model_type, b.whole)), None)
        tensors = [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_header(path)[0].values()]
        dtypes = Counter[str]()
        for tensor in tensors:
            dtypes[tensor.dtype] += tensor.size
        most = dtypes.most_common(1)[0][0] if dtypes else ""
        layout: Layout = "generation"
        if adapter is not None:
            layout = "adapter"
        elif backbone is not None and model_type == backbone.whole:
            layout = "omni"
        processing = _json(folder / "sentence_bert_config.json").get("processing_kwargs", {})
        return cls(
            name=folder.resolve().name,
            layout=layout,
            backbone=backbone,
            architecture=next(iter(config.get("architectures") or ()), None),
            is_embedder=bool(modules),
            dimension=_dimension(folder, modules, config or base_config),
            parameters=sum(dtypes.values()) or None,
            dtype=DTYPES.get(most, most) or None,
            bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None,
            processing=processing,
            prompts=_prompts(folder, backbone, processing.get("chat_template", {})),
            record=previous(folder),
            adapter=adapter,
            evaluations=read_evaluations(folder),
            plots=[path.relative_to(folder).as_posix() for path in sorted((folder / "analysis").glob("*.png"))],
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it takes; text, if its architecture is not known."""
        return self.backbone.kinds if self.backbone is not None else ("text",)


def _prompts(folder: Path, backbone: Backbone | None, chosen: dict[str, Any]) -> dict[str, str]:
    """Return what the chat template in use writes after content; nothing if the folder has none."""
    if backbone is None:
        return {}
    kwargs = {key: value for key, value in chosen.items() if key not in ("chat_template", "restore_suffix")}
    template = chosen.get("chat_template", "default")
    path = folder / "additional_chat_templates" / f"{template}.jinja"
    if template == "default":
        path = folder / "chat_template.jinja"
    if path.is_file():
        template = path.read_text(encoding="utf8")
    elif "{" not in template:  # the name of a template that is not there
        return {}
    return read_prompts(template, backbone.kinds, kwargs)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}


def _dimension(folder: Path, modules: list[dict[str, Any]], config: dict[str, Any]) -> int | None:
    """Return the dimension of the embeddings: that of the last module which states one, else of the decoder."""
    for entry in reversed(modules):
        settings = _json(folder / entry["path"] / "config.json") if entry["path"] else {}
        for key in ("out_features", "embedding_dimension", "word_embedding_dimension"):
            if key in settings:
                return int(settings[key])
    part = config.get("thinker_config", config)
    size = part.get("text_config", part).get("hidden_size")
    return None if size is None else int(size)
