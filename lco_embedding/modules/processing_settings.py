"""The settings of the processing: what may be set, the defaults, and how a call overrides a checkpoint.

They are Sentence Transformers' own `processing_kwargs`, saved in `sentence_bert_config.json`, so that a checkpoint
means the same to the stock loader. Each kind takes what `_rules` lists and the arguments of its processor. `max_pixels`
and `min_pixels` are written into the processors' `size`. `common`, the arguments that stock hands to every processor,
is kept for stock and has no effect here; nor has a kind that the backbone does not take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import ProcessorMixin

from lco_embedding.modules.backbones import Backbone
from lco_embedding.modules.media import Sampling

MAX_IMAGE_PIXELS = 1280 * 28 * 28
"""Default cap of an image in pixels, 1,280 tokens of the Qwen towers."""

MAX_FRAME_PIXELS = 768 * 28 * 28
"""Default cap of a video frame in pixels, that of the Qwen2.5-Omni processor."""

# The kinds of settings: under what name a processor declares its arguments of a kind, and which part of it some more.
ARGUMENTS = {
    "text": ("text_kwargs", None),
    "image": ("images_kwargs", "image_processor"),
    "audio": ("audio_kwargs", None),
    "video": ("videos_kwargs", "video_processor"),
}
KINDS = ("common", *ARGUMENTS, "chat_template")

# Arguments of processors that are no settings: data, what the model determines, and what excludes `fps`.
REFUSED = {
    *("text_pair", "text_target", "text_pair_target", "raw_speech", "video_metadata"),
    *("patch_size", "temporal_patch_size", "merge_size", "image_grid_pinpoints", "data_format", "input_data_format"),
    "num_frames",
}

# Settings of the decoding, and what is decided here; a checkpoint may state them, but the processors are not to see it.
DECODING = {
    *("fps", "min_frames", "max_frames", "do_sample_frames", "load_audio_from_video", "use_audio_in_video"),
    *("truncation", "max_length", "padding", "pad_to_multiple_of", "sampling_rate"),
    *("return_tensors", "return_attention_mask", "return_metadata"),
}

ProcessingKwargs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Rule:
    """What the value of a setting must be, in words, and a test of it."""

    words: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


COUNT = Rule("positive and whole", _is_count)
LIMIT = Rule("positive and whole, or None", lambda value: value is None or _is_count(value))
RATE = Rule(
    "positive and finite", lambda value: _is_count(value) or (isinstance(value, float) and 0 < value < math.inf)
)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
RENAMED = Rule("False; set load_audio_from_video, its new name", lambda value: value is False)
FILTER = Rule("the number of a filter of Pillow, 0 to 5", lambda value: isinstance(value, int) and 0 <= value <= 5)
AREA = Rule(
    "{'shortest_edge': least, 'longest_edge': most} in pixels, positive and whole",
    lambda value: (
        isinstance(value, Mapping)
        and set(value) == {"shortest_edge", "longest_edge"}
        and all(map(_is_count, value.values()))
        and value["shortest_edge"] <= value["longest_edge"]
    ),
)
SIDES = Rule(
    "positive and whole pixels, or a dict of such",
    lambda value: _is_count(value) or (isinstance(value, Mapping) and all(map(_is_count, value.values()))),
)
ANYTHING = Rule("anything", lambda value: True)


def _rules(backbone: Backbone) -> dict[str, dict[str, Rule]]:
    """Return what each kind takes beside the arguments of its processor, or more strictly than it."""
    pixels = {"min_pixels": COUNT, "max_pixels": COUNT, "size": AREA} if backbone.size_is_area else {"size": SIDES}
    sound = {"load_audio_from_video": FLAG, "use_audio_in_video": RENAMED} if "audio" in backbone.kinds else {}
    frames = {"fps": RATE, "min_frames": COUNT, "max_frames": COUNT, "do_sample_frames": FLAG}
    return {
        # Stock Sentence Transformers takes `logits_to_keep` for rerankers out of the settings of text.
        "text": {"max_length": LIMIT, "logits_to_keep": ANYTHING},
        "image": {"resample": FILTER, **pixels},
        "audio": {"truncation": FLAG},
        "video": {"resample": FILTER, **frames, **pixels, **sound},
        "chat_template": {"add_generation_prompt": FLAG},
    }


def with_defaults(settings: ProcessingKwargs, processor: ProcessorMixin, backbone: Backbone) -> ProcessingKwargs:
    """Return `settings` with the defaults filled in.

    Raises:
        ValueError: A setting is unknown, or its value is not what it must be.
    """
    given = _checked(settings, backbone)
    check_arguments(given, processor, backbone)
    complete = {kind: dict(values) for kind, values in given.items()}
    complete.setdefault("chat_template", {}).setdefault("add_generation_prompt", True)
    image = complete.setdefault("image", {})
    if backbone.size_is_area:
        _set_area("image", image, given, processor.image_processor.size, MAX_IMAGE_PIXELS)
    if "video" in backbone.kinds:
        video = complete.setdefault("video", {})
        # A processor class may override the size that its checkpoint states for videos.
        size = (getattr(processor, "videos_kwargs", None) or {}).get("size") or processor.video_processor.size
        _set_area("video", video, given, size, MAX_FRAME_PIXELS)
        for key, value in (("fps", 2.0), ("min_frames", 4), ("max_frames", 64), ("do_sample_frames", True)):
            video.setdefault(key, value)
        _order("video", video, given, "min_frames", "max_frames")
    return complete


def override(settings: ProcessingKwargs, per_call: ProcessingKwargs | None, backbone: Backbone) -> ProcessingKwargs:
    """Return the complete `settings` of a checkpoint with those of a call over them.

    What the processor alone knows of them, `check_arguments` checks.

    Raises:
        ValueError: A kind is unknown, or a value is not what it must be.
    """
    if not per_call:
        return settings
    given = _checked(per_call, backbone)
    merged = {kind: {**settings.get(kind, {}), **given.get(kind, {})} for kind in {**settings, **given}}
    for kind in ("image", "video"):
        if kind in backbone.kinds and backbone.size_is_area:
            _set_area(kind, merged[kind], given, settings[kind]["size"])
    if "video" in backbone.kinds:
        _order("video", merged["video"], given, "min_frames", "max_frames")
    return merged


def check_arguments(settings: ProcessingKwargs, processor: ProcessorMixin, backbone: Backbone) -> None:
    """Check that a processor takes the settings, by the classes in which it declares its arguments.

    Raises:
        ValueError: It does not know a setting, or not its value.
    """
    rules = _rules(backbone)
    for kind in set(settings).intersection(backbone.kinds):
        arguments, part = ARGUMENTS[kind]
        classes = [processor.valid_processor_kwargs.__annotations__[arguments]]
        if part is not None:
            classes.append(getattr(processor, part).valid_kwargs)
        declared = {key: owner for owner in classes for key in owner.__annotations__ if key not in REFUSED}
        for key, value in settings[kind].items():
            if key in rules[kind]:
                continue
            if key not in declared:
                known = ", ".join(sorted({*declared, *rules[kind]}))
                raise ValueError(f"{key!r} ({value!r}) is no setting of {kind}; expected some of {known}")
            try:
                validate_typed_dict(declared[key], {key: value})
            except StrictDataclassFieldValidationError as error:
                reason = str(error.__cause__).split(". Errors:")[0]
                raise ValueError(f"{key} of {kind} can't be {value!r}: {reason}") from error


def sampling(settings: ProcessingKwargs, backbone: Backbone) -> Sampling:
    """Return how the frames of a video are chosen."""
    video = settings["video"]
    least = video["min_frames" if video["do_sample_frames"] else "max_frames"]
    return Sampling(video["fps"], least, video["max_frames"], backbone.frame_multiple)


def for_processor(settings: ProcessingKwargs, kind: str) -> dict[str, Any]:
    """Return the settings of a kind that are for its processor rather than for the decoding before it."""
    return {key: value for key, value in settings.get(kind, {}).items() if key not in DECODING}


def _checked(settings: Any, backbone: Backbone) -> ProcessingKwargs:
    """Return settings as dicts, checked by the rules."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"processing_kwargs must be a dict of some of {sorted(KINDS)}, got {settings!r}")
    unknown = sorted(map(str, set(settings) - set(KINDS)))
    if unknown:
        raise ValueError(f"unknown processing_kwargs {unknown}; expected some of {sorted(KINDS)}")
    rules = _rules(backbone)
    for kind, values in settings.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"processing_kwargs of {kind} must be a dict, got {values!r}")
        for key, value in values.items():
            rule = rules.get(kind, {}).get(key, ANYTHING)
            if not rule.holds(value):
                raise ValueError(f"{key} of {kind} must be {rule.words}, got {value!r}")
    return {kind: dict(values) for kind, values in settings.items()}


def _set_area(kind: str, settings: dict[str, Any], given: ProcessingKwargs, base: Any, cap: float = math.inf) -> None:
    """Write `max_pixels` and `min_pixels` into the `size` of `settings`; without a size given, `base` up to `cap`."""
    size = given.get(kind, {}).get("size")
    settings.setdefault("min_pixels", (size or base)["shortest_edge"])
    settings.setdefault("max_pixels", size["longest_edge"] if size else min(base["longest_edge"], cap))
    _order(kind, settings, given, "min_pixels", "max_pixels")
    settings["size"] = {"shortest_edge": settings.pop("min_pixels"), "longest_edge": settings.pop("max_pixels")}


def _order(kind: str, settings: dict[str, Any], given: ProcessingKwargs, least: str, most: str) -> None:
    """Lower the least of something to the most of it, unless it was given."""
    if settings[least] > settings[most]:
        if least in given.get(kind, {}):
            raise ValueError(f"{least} of {kind} ({settings[least]}) is above {most} ({settings[most]})")
        settings[least] = settings[most]
