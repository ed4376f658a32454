"""What is measured of a checkpoint: how it finds media by text and text by media, and its geometry by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lco_embedding.analysis.geometry import anisotropy, by_layer, effective_rank, mean_cosines, modality_gap
from lco_embedding.analysis.kernels import kernel_alignment, mutual_knn, shared_neighbours
from lco_embedding.analysis.layers import layer_embeddings
from lco_embedding.evaluation.retrieval import rank_relevant
from lco_embedding.miniature.benchmark import make_pool
from lco_embedding.miniature.world.captions import caption
from lco_embedding.miniature.world.chats import shown
from lco_embedding.miniature.world.rendering import render
from lco_embedding.miniature.world.scenes import KINDS, SPLITS, Kind, Split, sample_distinct
from lco_embedding.model import LCOEmbedding

CUTOFF = 10
"""Of nDCG."""


def measure(folder: str | Path, kinds: Sequence[str], count: int, split: Split = "test") -> dict[str, Any]:
    """Measure an embedding model, or a generative checkpoint as one.

    Args:
        folder: The checkpoint.
        kinds: Kinds of scenes; "runes" are documents in the invented script.
        count: Scenes of each kind.
        split: Which scenes.

    Returns:
        For each kind: `text_to` and `to_text`, the ranks of what each query seeks; by layer `anisotropy` of the media,
        `text_anisotropy` of the captions and `mutual_knn` between them; and of the last layer, for each example
        `cosines` with the others, `text_cosines` and `shared` neighbours, and `kernels`, `gap` and `rank`.
    """
    model = LCOEmbedding(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return {kind: _measure(model, kind, count, split) for kind in kinds}


def gains(ranks: Sequence[int]) -> NDArray[np.float64]:
    """Return nDCG@10 of queries with one right answer, from its ranks."""
    places = np.asarray(ranks, dtype=np.float64)
    found: NDArray[np.float64] = np.where(places <= CUTOFF, 1 / np.log2(places + 1), 0.0)
    return found


def chance(count: int) -> float:
    """Return nDCG@10 of a random order of `count` documents."""
    return float(gains(range(1, CUTOFF + 1)).sum() / count)


def _measure(model: LCOEmbedding, kind: str, count: int, split: Split) -> dict[str, Any]:
    if kind == "runes":
        media, captions = runic_pool(split, count)
    else:
        pool = make_pool(_kind(kind), split, count)
        media, captions = list(pool.media), list(pool.captions)
    seen, told = layer_embeddings(model, media), layer_embeddings(model, captions)
    found, sought = _embed(model, seen[-1]), _embed(model, told[-1])
    return {
        "text_to": _ranks(sought, found),
        "to_text": _ranks(found, sought),
        "anisotropy": _rounded(by_layer(anisotropy, seen)),
        "text_anisotropy": _rounded(by_layer(anisotropy, told)),
        # What enters the decoder at the last token is the same for all, and has no neighbours.
        "mutual_knn": [float("nan"), *_rounded(by_layer(mutual_knn, seen[1:], told[1:]))],
        "cosines": _rounded(mean_cosines(seen[-1])),
        "text_cosines": _rounded(mean_cosines(told[-1])),
        "shared": _rounded(shared_neighbours(seen[-1], told[-1])),
        "kernels": {name: round(value, 4) for name, value in kernel_alignment(seen[-1], told[-1]).items()},
        "gap": round(modality_gap(seen[-1], told[-1]), 4),
        "rank": round(effective_rank(seen[-1], center=True), 1),
    }


def runic_pool(split: Split, count: int, seed: int = 0) -> tuple[list[Any], list[str]]:
    """Draw pages in the invented script, no two of which say the same, and their captions."""
    rng = np.random.default_rng([seed, KINDS.index("document"), SPLITS.index(split), 1])
    scenes = sample_distinct("document", split, count, rng, script="runes")
    return [shown(render(scene, rng)) for scene in scenes], [caption(scene, rng, split) for scene in scenes]


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind == name:
            return kind
    raise ValueError(f"there is no kind {name!r}; expected one of {', '.join(KINDS)} or runes")


def _embed(model: LCOEmbedding, last: NDArray[np.float32]) -> torch.Tensor:
    """Send the states of the last layer through what comes after the pooling: a projection, if there is one."""
    features = {"sentence_embedding": torch.from_numpy(np.array(last))}
    with torch.inference_mode():
        for module in list(model)[2:]:
            features = module(features)
    return features["sentence_embedding"]


def _ranks(queries: torch.Tensor, documents: torch.Tensor) -> list[int]:
    return [int(each[0]) for each in rank_relevant(queries, documents, range(len(queries)))]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 5) for value in values]
