"""The same checkpoint in the layout that a reader wants.

    export("checkpoint", "output", "omni")

- `thinker`, the default of `save_pretrained`: the part that embeds with its language head, as the generation class of
  the backbone names weights. Sentence Transformers, `LCOEmbedding` and the Auto classes of transformers read it.
- `omni`: the same weights named as in the whole Qwen2.5-Omni (`thinker.*`), without talker. The native classes of
  serving engines read it, and `LCOEmbedding`.
- `adapter`: the LoRA alone, which names its base. PEFT and `LCOEmbedding` read it.

Weights are renamed shard by shard, so that one shard at a time is in memory.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig

from lco_embedding.atomic_writes import atomic_folder, require_free
from lco_embedding.checkpoints.info import ADAPTER_CONFIG, Checkpoint
from lco_embedding.checkpoints.record import NAME as RECORD
from lco_embedding.hub.files import published_files
from lco_embedding.model_cards import LCOModelCardData, write_card
from lco_embedding.model_cards.card import README
from lco_embedding.modules.adapters import merge_lora

Layout = Literal["thinker", "omni", "adapter"]

PREFIX = "thinker."
"""What stands before the names of the weights in a whole Qwen2.5-Omni."""

PART, WHOLE = "qwen2_5_omni_thinker", "qwen2_5_omni"
WHOLE_CLASS = "Qwen2_5OmniForConditionalGeneration"

HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors", RECORD)


def export(
    folder: str | Path,
    output: str | Path,
    layout: Layout = "thinker",
    base_model: str | None = None,
    data: LCOModelCardData | None = None,
) -> Path:
    """Write a checkpoint in another layout; the source is left as it is.

    Args:
        folder: A checkpoint in any layout.
        output: Folder to write, which must be new or empty.
        layout: What to write. An adapter becomes `thinker` or `omni` by being merged into its base.
        base_model: For `adapter`: the id of its base, instead of that which it names.
        data: What a person knows, for the card.

    Returns:
        The output.

    Raises:
        FileNotFoundError: There is no such folder.
        FileExistsError: The output is not empty.
        ValueError: The checkpoint can't be written in the layout.
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    require_free(output)
    checkpoint = Checkpoint.read(folder)
    with atomic_folder(output) as partial:
        if layout == "adapter":
            _write_adapter(folder, partial, checkpoint, base_model)
        elif checkpoint.layout == "adapter":
            _merge(folder, partial, layout)
        else:
            _rename(folder, partial, checkpoint, layout)
        write_card(partial, data)
    return output


def _write_adapter(folder: Path, output: Path, checkpoint: Checkpoint, base_model: str | None) -> None:
    if checkpoint.adapter is None:
        raise ValueError(
            f"{folder} is a whole model, whose adapter, if it had one, is merged into it; train with --keep adapter"
        )
    for name in (*ADAPTER_FILES, README):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, output / name)
    if base_model is not None:
        # A commit belongs to one repository.
        same = checkpoint.adapter.get("base_model_name_or_path") == base_model
        revision = checkpoint.adapter.get("revision") if same else None
        adapter = {**checkpoint.adapter, "base_model_name_or_path": base_model, "revision": revision}
        (output / ADAPTER_CONFIG).write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf8")


def _merge(folder: Path, output: Path, layout: Layout) -> None:
    """Merge an adapter into its base; `omni` goes by way of the other layout."""
    from lco_embedding.model import LCOEmbedding

    model = LCOEmbedding(folder, device="cpu")
    merge_lora(model.omni.model)
    target = output if layout == "thinker" else output / "merged"
    model.save_pretrained(target, create_model_card=False)
    for name in (RECORD, README):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if layout == "omni":
        _rename(target, output, Checkpoint.read(target), layout)
        shutil.rmtree(target)


def _rename(folder: Path, output: Path, checkpoint: Checkpoint, layout: Layout) -> None:
    """Copy a checkpoint, its weights and configuration renamed if the layout is another."""
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    if layout == "omni" and config["model_type"] not in (PART, WHOLE):
        raise ValueError(f"the omni layout is of Qwen2.5-Omni, and {folder} is a {config['model_type']}")
    is_whole = checkpoint.layout == "omni"
    wanted = layout == "omni"
    weights: dict[str, str] = {}
    total = 0
    for name in published_files(folder):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        if "/" not in name and name.endswith(".safetensors"):
            names, size = _rename_weights(folder / name, output / name, is_whole, wanted)
            weights |= dict.fromkeys(names, name)
            total += size
        elif name not in ("config.json", INDEX):
            shutil.copyfile(folder / name, output / name)
    if wanted and not config.get("tie_word_embeddings", False) and f"{PREFIX}{HEAD}" not in weights:
        raise ValueError(
            f"{folder} has no language head, which the omni layout needs; save it anew with the base at hand"
        )
    if set(weights.values()) != {"model.safetensors"}:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
        (output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf8")
    written = _config(config, is_whole, wanted)
    (output / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf8")


def _rename_weights(source: Path, target: Path, is_whole: bool, wanted: bool) -> tuple[list[str], int]:
    """Write a shard with other names; the talker of a whole model is left out.

    Returns:
        The new names, and how many bytes the tensors have.
    """
    tensors = {}
    with safe_open(source, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - a file handle, not a dict
            if is_whole and not name.startswith(PREFIX):
                continue
            bare = name.removeprefix(PREFIX) if is_whole else name
            tensors[PREFIX + bare if wanted else bare] = opened.get_tensor(name)
        metadata = opened.metadata()
    if tensors:
        save_file(tensors, target, metadata=metadata)
        # safetensors makes files that only their owner can read.
        shutil.copymode(source, target)
    return list(tensors), sum(tensor.nbytes for tensor in tensors.values())


def _config(config: dict[str, Any], is_whole: bool, wanted: bool) -> dict[str, Any]:
    """Return the configuration of a layout, from that of the other."""
    if is_whole == wanted:
        return config
    if not wanted:
        return {**config["thinker_config"], "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"]}
    whole: dict[str, Any] = AutoConfig.for_model(WHOLE).to_diff_dict()
    kept = ("dtype", "transformers_version", "tie_word_embeddings")
    return {
        **whole,
        "architectures": [WHOLE_CLASS],
        "model_type": WHOLE,
        "enable_audio_output": False,
        "thinker_config": {key: value for key, value in config.items() if key != "architectures"},
        **{key: config[key] for key in kept if key in config},
    }
