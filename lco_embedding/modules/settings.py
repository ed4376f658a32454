"""The settings of the processing: what may be set, the defaults, and how a call overrides a checkpoint.

They are Sentence Transformers' own `processing_kwargs`, saved in `sentence_bert_config.json`, so that a checkpoint
means the same to the stock loader. `max_pixels` and `min_pixels` are written into the processors' `size`.
"""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin

from lco_embedding.modules.backbones import Backbone
from lco_embedding.modules.media import Sampling

MAX_IMAGE_PIXELS = 1280 * 28 * 28
"""Default cap of an image in pixels, 1,280 tokens of the Qwen towers."""

MAX_FRAME_PIXELS = 768 * 28 * 28
"""Default cap of a video frame in pixels, that of the Qwen2.5-Omni processor."""

KINDS = ("common", "text", "image", "audio", "video", "chat_template")

# Settings of the decoding, which the processors are not to see.
DECODING = ("fps", "min_frames", "max_frames", "do_sample_frames", "load_audio_from_video", "truncation", "padding")

ProcessingKwargs = dict[str, dict[str, Any]]


def with_defaults(settings: ProcessingKwargs, processor: ProcessorMixin, backbone: Backbone) -> ProcessingKwargs:
    """Return `settings` with the defaults filled in.

    Raises:
        ValueError: A setting is unknown or out of range.
    """
    settings = {key: dict(value) for key, value in settings.items()}
    settings.setdefault("chat_template", {}).setdefault("add_generation_prompt", True)
    image = settings.setdefault("image", {})
    if backbone.size_is_area:
        _set_area(image, processor.image_processor.size, MAX_IMAGE_PIXELS)
    if "video" in backbone.kinds:
        video = settings.setdefault("video", {})
        # A processor class may override the size that its checkpoint states for videos.
        size = (processor.videos_kwargs or {}).get("size") or processor.video_processor.size
        _set_area(video, size, MAX_FRAME_PIXELS)
        for key, value in (("fps", 2.0), ("min_frames", 4), ("max_frames", 64), ("do_sample_frames", True)):
            video.setdefault(key, value)
    return _checked(settings)


def override(settings: ProcessingKwargs, per_call: ProcessingKwargs | None, backbone: Backbone) -> ProcessingKwargs:
    """Return the complete `settings` of a checkpoint with those of a call over them.

    Raises:
        ValueError: A setting is unknown or out of range.
    """
    if not per_call:
        return settings
    unknown = sorted(set(per_call) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown processing_kwargs {unknown}; expected some of {sorted(KINDS)}")
    merged = {kind: {**settings.get(kind, {}), **per_call.get(kind, {})} for kind in {*settings, *per_call}}
    for kind in ("image", "video"):
        if kind in backbone.kinds and backbone.size_is_area:
            _set_area(merged[kind], settings[kind]["size"])
    return _checked(merged)


def sampling(settings: ProcessingKwargs, backbone: Backbone) -> Sampling:
    """Return how the frames of a video are chosen."""
    video = settings["video"]
    return Sampling(video["fps"], video["min_frames"], video["max_frames"], backbone.frame_multiple)


def for_processor(settings: ProcessingKwargs, kind: str) -> dict[str, Any]:
    """Return the settings of a kind that are for its processor rather than for the decoding before it."""
    return {key: value for key, value in settings.get(kind, {}).items() if key not in DECODING}


def _set_area(settings: dict[str, Any], base: Any, cap: int | None = None) -> None:
    """Write `max_pixels` and `min_pixels` of `settings` into its `size`, which else is `base`, at most `cap`."""
    size = dict(settings.get("size") or base)
    longest, shortest = size["longest_edge"], size["shortest_edge"]
    if cap is not None and "size" not in settings:
        longest = min(longest, cap)
    longest = settings.pop("max_pixels", longest)
    shortest = min(settings.pop("min_pixels", shortest), longest)
    settings["size"] = {"shortest_edge": shortest, "longest_edge": longest}


def _checked(settings: ProcessingKwargs) -> ProcessingKwargs:
    positive = [("video", key) for key in ("fps", "min_frames", "max_frames")] + [("text", "max_length")]
    for kind, key in positive:
        value = settings.get(kind, {}).get(key)
        if value is not None and not value > 0:
            raise ValueError(f"{key} of {kind} must be positive, got {value!r}")
    for kind in ("image", "video"):
        size = settings.get(kind, {}).get("size")
        if isinstance(size, dict) and not all(value > 0 for value in size.values()):
            raise ValueError(f"the pixels of {kind} must be positive, got {size}")
    return settings
