"""Sides of any-to-any rows: what is to lie together and apart, of any kind and mixture of kinds.

A row has an `anchor`, a `positive` and optionally a `negative` (or `negative_1`, `negative_2`, ...). Each is a side:
an input of any form that `encode` takes, or an object with some of `text`, `image_path`, `audio_path` and
`video_path`, of which "" means absent (the format of the data that LCO-Emb released, and the last two are ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lco_embedding.data.json_lines import RowError
from lco_embedding.modules.inputs import KINDS

SIDE = ("image_path", "audio_path", "video_path", "text")
"""The keys of a side, in the order in which the model reads them: LCO-Emb was trained with images before text."""


def input_of(side: Any) -> Any:
    """Return a side as an input of `encode`.

    Args:
        side: An object of `SIDE` keys or of kinds, of which "" and None mean absent, or an input already.

    Returns:
        A dict with some of `image`, `audio`, `video` and `text`: those of `SIDE` keys in this order, others in their
        own. Other values are returned as they are.
    """
    if not isinstance(side, Mapping) or not side or not side.keys() <= {*SIDE, *KINDS}:
        return side
    keys = [key for key in SIDE if key in side] if side.keys() <= set(SIDE) else side
    # Media may be arrays, which compare element by element.
    absent = [key for key in keys if side[key] is None or (isinstance(side[key], str) and not side[key])]
    return {key.removesuffix("_path"): side[key] for key in keys if key not in absent}


def is_column_of_sides(name: str) -> bool:
    """Tell whether a key of a row names a side."""
    return name in ("anchor", "positive", "negative") or name.startswith("negative_")


def parse_side(value: Any, where: str) -> dict[str, str]:
    """Return a side of a row of JSON with every key of `SIDE`, "" where it has none.

    Args:
        value: A text, or an object with some of the keys; a medium may stand under its kind alone ("image").
        where: How an error names it.

    Raises:
        RowError: It is neither, or has other keys, or other values than strings.
    """
    value = {"text": value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise RowError(f"{where} must be a text or an object, got {type(value).__name__}")
    side = {key if key == "text" or key.endswith("_path") else f"{key}_path": entry for key, entry in value.items()}
    unknown = sorted(set(side) - set(SIDE))
    if unknown or not all(isinstance(entry, str | None) for entry in side.values()):
        raise RowError(f"{where} must hold strings under {', '.join(SIDE)}, got {value}")
    return {key: side.get(key) or "" for key in SIDE}
