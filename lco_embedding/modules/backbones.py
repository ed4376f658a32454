"""The architectures that can become an embedding model, one record each.

An architecture is a record, not a class: it says which part of a raw checkpoint is needed, where its decoder and
towers are, what LoRA adapts, and what the model can see and hear. A new backbone is a new record.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig

from lco_embedding.modules.media import Kind

_LINEAR = r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Backbone:
    r"""One architecture.

    Args:
        model_type: `model_type` of the configuration of the part that embeds.
        generation_class: Name of the transformers class that holds this part and a language head; the layout in
            which checkpoints are saved.
        kinds: What it takes.
        decoder: Path of the language decoder within the model.
        towers: Paths of the encoders and projectors within the model.
        packed_towers: Those of them that read all media of a batch as one row, cut into segments.
        lora_targets: Pattern of the decoder's linear layers, as PEFT's `target_modules` takes it.
        whole: `model_type` of the larger model that this part comes in, if any.
        config_key: Where the configuration of the larger model holds that of this part.
        size_is_area: Whether the `size` of the image and video processors is an area in pixels
            (`shortest_edge` and `longest_edge` being its least and most), which a cap can lower.
        max_aspect_ratio: The longest image or frame that the processor takes, as long side by short side.
        frame_multiple: Frames of a video that are joined into one.
        rotary_axes: Axes of a token's rotary position: time, height and width, or one that counts tokens.
    """

    model_type: str
    generation_class: str
    kinds: tuple[Kind, ...]
    decoder: str
    towers: tuple[str, ...]
    packed_towers: tuple[str, ...] = ()
    lora_targets: str = rf".*language_model\.layers\.\d+\.{_LINEAR}"
    whole: str | None = None
    config_key: str | None = None
    size_is_area: bool = True
    max_aspect_ratio: float = 200.0
    frame_multiple: int = 2
    rotary_axes: int = 3


BACKBONES = (
    Backbone(
        model_type="qwen2_5_omni_thinker",
        generation_class="Qwen2_5OmniThinkerForConditionalGeneration",
        kinds=("text", "image", "audio", "video"),
        decoder="language_model",
        towers=("visual", "audio_tower"),
        packed_towers=("visual", "audio_tower"),
        whole="qwen2_5_omni",
        config_key="thinker_config",
    ),
    Backbone(
        model_type="qwen2_5_vl",
        generation_class="Qwen2_5_VLForConditionalGeneration",
        kinds=("text", "image", "video"),
        decoder="language_model",
        towers=("visual",),
        packed_towers=("visual",),
    ),
    Backbone(
        model_type="llava_next",
        generation_class="LlavaNextForConditionalGeneration",
        kinds=("text", "image"),
        decoder="language_model",
        towers=("vision_tower", "multi_modal_projector"),
        size_is_area=False,
        max_aspect_ratio=float("inf"),
        rotary_axes=1,
    ),
)


def find_backbone(config: PretrainedConfig) -> Backbone:
    """Return the record of a configuration, be it of the part that embeds or of the larger model around it.

    Raises:
        ValueError: The architecture is not supported.
    """
    for backbone in BACKBONES:
        if config.model_type and config.model_type in (backbone.model_type, backbone.whole):
            return backbone
    known = ", ".join(name for backbone in BACKBONES for name in (backbone.whole, backbone.model_type) if name)
    raise ValueError(
        f"the architecture {config.model_type!r} is not supported; supported are: {known}. "
        "Text-only and other models load with sentence_transformers.SentenceTransformer."
    )


def embedding_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the part that embeds, out of that of the larger model where there is one."""
    backbone = find_backbone(config)
    if config.model_type == backbone.whole and backbone.config_key is not None:
        part: PretrainedConfig = getattr(config, backbone.config_key)
        return part
    return config
