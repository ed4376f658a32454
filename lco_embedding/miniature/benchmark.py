"""The benchmark of the miniature's world: held-out scenes that are searched by their captions, and the other way round.

    results = evaluate(LCOEmbedding.miniature())
    results["text to image"].ndcg[10]       # 0.612 [0.571, 0.653]
    results["mean"].figures()               # {"recall@1": ..., "ndcg@10": ..., ...}

Scenes are of combinations that training has not seen, and captions have word orders that it has not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lco_embedding.evaluation.retrieval import Embeddings, Estimate, Retrieval, rank_relevant, score_ranks
from lco_embedding.miniature.world.captions import TEMPLATES, caption, fill
from lco_embedding.miniature.world.chats import shown
from lco_embedding.miniature.world.rendering import render
from lco_embedding.miniature.world.scenes import (
    KINDS,
    SPLITS,
    SPOKEN_WORDS,
    Kind,
    Scene,
    Split,
    sample_distinct,
)

MAX_DRAWS = 100
"""Draws of a second caption, after which a scene counts as one that can be told in one way only."""


class Encoder(Protocol):
    """What can be judged: `LCOEmbedding`, `SentenceTransformer`, or anything that embeds a list."""

    def encode(self, inputs: list[Any], /) -> Embeddings:
        """Return the embeddings of texts and media, of shape (inputs, dimension)."""
        ...


@dataclass(frozen=True)
class Pool:
    """Scenes of one kind of which no two say the same, with a rendering and two captions of each.

    Args:
        kind: The medium.
        scenes: What is shown.
        media: Each scene rendered once, as an input of a model.
        captions: A caption of each scene.
        paraphrases: Another caption of each.
    """

    kind: Kind
    scenes: tuple[Scene, ...]
    media: tuple[Any, ...]
    captions: tuple[str, ...]
    paraphrases: tuple[str, ...]


def make_pool(kind: Kind, split: Split = "test", count: int = 300, seed: int = 0) -> Pool:
    """Draw a pool; it follows from the arguments alone.

    Args:
        kind: The medium.
        split: Which scenes to draw, and in whose caption templates.
        count: How many.
        seed: Seed of scenes, renderings and captions.

    Raises:
        ValueError: There is no such kind or split, or the split has fewer scenes than asked for.
    """
    if kind not in KINDS or split not in SPLITS:
        raise ValueError(f"there is no {split} split of {kind}; expected {', '.join(SPLITS)} of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, KINDS.index(kind), SPLITS.index(split)])
    scenes = tuple(sample_distinct(kind, split, count, rng))
    media = tuple(shown(render(scene, rng)) for scene in scenes)
    captions = tuple(caption(scene, rng, split) for scene in scenes)
    paraphrases = tuple(_another(scene, text, split, rng) for scene, text in zip(scenes, captions, strict=True))
    return Pool(kind, scenes, media, captions, paraphrases)


def evaluate(
    model: Encoder,
    split: Split = "test",
    count: int = 300,
    kinds: Sequence[Kind] = ("image", "sound", "clip"),
    seed: int = 0,
) -> dict[str, Retrieval]:
    """Search the pools of some kinds by caption, and their captions by medium.

    A query has one relevant document among `count`. At chance, nDCG@10 is 4.54 / `count`.

    Args:
        model: Embeds texts and media.
        split: Which scenes to search.
        count: Scenes of each kind.
        kinds: Which media to search; documents are best judged apart, as they are read rather than seen.
        seed: Seed of the pools and of the intervals.

    Returns:
        For each kind, say image, the retrieval "text to image" and "image to text"; "text to text", which searches a
        second caption of each scene, each kind in its own pool; and "mean", of all but "text to text". Figures of
        several pools are over all their queries, which is the mean over the pools.

    Raises:
        ValueError: No kinds are given, or a pool can't be drawn.
    """
    if not kinds:
        raise ValueError(f"there are no kinds to search; expected some of {', '.join(KINDS)}")
    ranks: dict[str, list[NDArray[np.int64]]] = {}
    texts: list[NDArray[np.int64]] = []
    for kind in dict.fromkeys(kinds):
        pool = make_pool(kind, split, count, seed)
        captions, media = model.encode([*pool.captions]), model.encode([*pool.media])
        ranks[f"text to {kind}"] = rank_relevant(captions, media, range(count))
        ranks[f"{kind} to text"] = rank_relevant(media, captions, range(count))
        texts += rank_relevant(captions, model.encode([*pool.paraphrases]), range(count))
    together = [rank for each in ranks.values() for rank in each]
    return {
        name: score_ranks(each, count, seed=seed)
        for name, each in {**ranks, "text to text": texts, "mean": together}.items()
    }


def word_accuracy(model: Encoder, split: Split = "test", renderings: int = 10, seed: int = 0) -> Estimate:
    """Tell how often a spoken word is nearest to its own text, among the texts of all twenty.

    Each word is spoken in voices, speeds and noise drawn anew. The texts are the split's captions of a single word
    ("a voice that says seven"); one caption template serves all twenty texts, and the renderings take turns through
    the templates. Words that are heard alone may lie in any split of scenes: what is judged is whether they are told
    apart. At chance, it is 0.05.

    Args:
        model: Embeds texts and sounds.
        split: Whose caption templates to use.
        renderings: Of each word.
        seed: Seed of the renderings and of the interval.

    Raises:
        ValueError: There is no such split, or no rendering is asked for.
    """
    if split not in SPLITS or renderings < 1:
        raise ValueError(
            f"expected a split of {', '.join(SPLITS)} and 1 rendering or more; got {split!r} and {renderings}"
        )
    rng = np.random.default_rng([seed, len(KINDS), SPLITS.index(split)])
    scenes = [Scene.of("sound", word=word) for word in SPOKEN_WORDS]
    templates, words = TEMPLATES["word"][split], len(SPOKEN_WORDS)
    texts = model.encode([fill(template, scene, rng) for template in templates for scene in scenes])
    sounds = model.encode([shown(render(scene, rng)) for _ in range(renderings) for scene in scenes])
    ranks: list[NDArray[np.int64]] = []
    for index in range(renderings):
        start = words * (index % len(templates))
        spoken = sounds[words * index : words * (index + 1)]
        ranks += rank_relevant(spoken, texts[start : start + words], range(words))
    return score_ranks(ranks, words, ks=(1,), seed=seed).recall[1]


def _another(scene: Scene, text: str, split: Split, rng: np.random.Generator) -> str:
    """Write a caption of a scene that differs from the given one."""
    for _ in range(MAX_DRAWS):
        other = caption(scene, rng, split)
        if other != text:
            return other
    raise ValueError(f"the {split} split has no other caption for {scene} than {text!r}; add templates")
