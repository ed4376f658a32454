"""Some rows of a batch as a batch of their own, with the media that belong to them.

In a batch the media of all rows are joined, kind by kind, in the order of their placeholders: a row may have none or
several of a kind, so that the first axis of their features does not count rows. Here is the one place that knows what
it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

TOKEN_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids", "row_position_ids")
"""Features of shape (rows, ..., tokens), padded to one length."""

MEDIA_KEYS = {
    "image": ("image_grid_thw", "image_sizes", "pixel_values"),
    "audio": ("input_features", "feature_attention_mask"),
    "video": ("video_grid_thw", "video_second_per_grid", "second_per_grid_ts", "pixel_values_videos"),
}
"""Features of shape (media, ...) for each kind of medium; grids come first, as what follows is measured by them."""

GRID_KEYS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
"""Features of shape (patches, ...) instead where there is a grid, of shape (media, 3), the patches of each medium in
time, height and width."""


def slice_rows(
    features: Mapping[str, Any], start: int, stop: int, audio_start_token_id: int | None = None
) -> dict[str, Any]:
    """Take the rows from `start` up to `stop` out of a batch.

    Columns of padding that none of these rows uses are cut off on both sides. With the rotary positions of every
    supported backbone, which count from a row's first token or matter by their differences alone, that changes no
    hidden state beyond rounding.

    Args:
        features: A batch of `OmniTransformer.preprocess`, or of the `Transformer` of Sentence Transformers if it is not
            flattened. `input_ids` and `attention_mask` have shape (rows, tokens), padded on either side. Beside
            features of images or videos (`MEDIA_KEYS`) there are `num_images_per_sample` or `num_videos_per_sample` of
            shape (rows,). Other tensors have one entry for each row; what is no tensor holds for all rows.
        start: First row.
        stop: Row after the last.
        audio_start_token_id: The token that begins every audio, be it for itself or in a video that is heard;
            `config.audio_start_token_id` of the model. By it audios are counted where `num_audios_per_sample` does not
            tell, as neither `preprocess` does.

    Returns:
        A new dict of views. Media of which these rows have none are left out, as models can't take empty tensors.

    Raises:
        ValueError: There are no such rows, or the features do not tell which row they belong to.
    """
    rows = len(features["input_ids"])
    if not 0 <= start < stop <= rows:
        raise ValueError(f"the batch has {rows} rows, none from {start} up to {stop}; need 0 <= start < stop <= {rows}")
    media = _media_slices(features, start, stop, audio_start_token_id)
    used = features["attention_mask"][start:stop].any(dim=0).nonzero()
    columns = slice(int(used.min()), int(used.max()) + 1)
    sliced: dict[str, Any] = {}
    for key, value in features.items():
        if not isinstance(value, Tensor):
            sliced[key] = value
        elif key in media:
            if media[key].start < media[key].stop:
                sliced[key] = value[media[key]]
        elif key in TOKEN_KEYS:
            sliced[key] = value[start:stop, ..., columns]
        elif value.shape[:1] == (rows,):
            sliced[key] = value[start:stop]
        else:
            raise ValueError(
                f"{key!r} of shape {tuple(value.shape)} has not one entry for each of {rows} rows, and is none of the "
                f"known features of media; add it to MEDIA_KEYS or TOKEN_KEYS of {__name__}"
            )
    return sliced


def _media_slices(
    features: Mapping[str, Any], start: int, stop: int, audio_start_token_id: int | None
) -> dict[str, slice]:
    """Return where in each feature of media the entries of some rows lie."""
    slices: dict[str, slice] = {}
    for kind, keys in MEDIA_KEYS.items():
        present = [key for key in keys if key in features]
        if not present:
            continue
        counts = _media_of_rows(features, kind, audio_start_token_id)
        for key in present:
            bounds = _bounds(counts)
            place = slice(bounds[start], bounds[stop])
            grid = features.get(GRID_KEYS.get(key, ""))
            if grid is not None:
                bounds = _bounds(grid.prod(dim=1))
                place = slice(bounds[place.start], bounds[place.stop])
            if bounds[-1] != len(features[key]):
                raise ValueError(
                    f"{key!r} has {len(features[key])} entries, but the rows of the batch account for {bounds[-1]}; "
                    "is a chat template or a token id of another model in use?"
                )
            slices[key] = place
    return slices


def _media_of_rows(features: Mapping[str, Any], kind: str, audio_start_token_id: int | None) -> Tensor:
    """Return how many media of a kind each row has, of shape (rows,)."""
    counts: Tensor | None = features.get(f"num_{kind}s_per_sample")
    if counts is not None:
        return counts
    if kind == "audio" and audio_start_token_id is not None:
        starts: Tensor = features["input_ids"] == audio_start_token_id
        return starts.sum(dim=1)
    remedy = " or pass audio_start_token_id" if kind == "audio" else ""
    raise ValueError(f"which row has which {kind} is unknown: put num_{kind}s_per_sample into the batch{remedy}")


def _bounds(sizes: Tensor) -> list[int]:
    """Return where each of some stretches begins when they lie end to end, and where the last ends."""
    return [0, *sizes.cumsum(dim=0).tolist()]
