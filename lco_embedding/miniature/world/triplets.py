"""Triplets of captions: text alone, which is all that the contrastive training of the miniature sees.

triplets = Triplets(1000, seed=0)
triplets[7]    # {"anchor": ..., "positive": the same scene in other words, "negative": one attribute changed}
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lco_embedding.miniature.world.captions import caption
from lco_embedding.miniature.world.scenes import KINDS, Kind, Split, hard_negative, sample


class Triplets:
    """Triplets by number: `triplets[index]` is the same each time.

    Args:
        count: How many.
        seed: Seed of all of them.
        split: Which scenes they are about, and whose caption templates they use.
        kinds: The kinds of scenes, drawn alike.
    """

    def __init__(self, count: int, seed: int = 0, split: Split = "train", kinds: Sequence[Kind] = KINDS) -> None:
        self.count, self.seed, self.split, self.kinds = count, seed, split, tuple(kinds)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} triplets; got number {index}")
        rng = np.random.default_rng([self.seed, index])
        scene = sample(self.kinds[int(rng.integers(len(self.kinds)))], self.split, rng)
        other = hard_negative(scene, rng)
        return {
            "anchor": caption(scene, rng, self.split),
            "positive": caption(scene, rng, self.split),
            "negative": caption(other, rng, self.split),
        }
