"""Endless chats about the world, rendered as they are asked for: what the miniature is pretrained on.

chats = Chats(1000, seed=0)
chats[7]    # {"messages": [{"role": "user", "content": [{"type": "image", "image": array}, ...]}, ...]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lco_embedding.miniature.world.captions import caption
from lco_embedding.miniature.world.clips import FPS
from lco_embedding.miniature.world.exchanges import TASKS, Medium, Task, exchange
from lco_embedding.miniature.world.rendering import render
from lco_embedding.miniature.world.scenes import KINDS, Kind, Split, sample
from lco_embedding.miniature.world.sounds import RATE

SHARES: Mapping[Medium, float] = {"image": 0.28, "sound": 0.24, "clip": 0.25, "document": 0.08, "text": 0.15}
"""Of which part of the chats are about each medium; "text" is about the caption of a scene of any kind."""

BLOCKS: dict[Kind, str] = {"image": "image", "sound": "audio", "clip": "video", "document": "image"}


class Chats:
    """Chats by number: `chats[index]` is the same each time, and no two are drawn alike.

    Args:
        count: How many.
        seed: Seed of all of them.
        split: Which scenes they are about.
        shares: Weight of each medium.
        tasks: Weight of each task.
        wordings: Whose caption templates they use; those of the split if None.
        **fixed: Values that each scene must have, such as `script="runes"`.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        split: Split = "train",
        shares: Mapping[Medium, float] = SHARES,
        tasks: Mapping[Task, float] = TASKS,
        wordings: Split | None = None,
        **fixed: str,
    ) -> None:
        self.count, self.seed, self.split = count, seed, split
        self.tasks, self.wordings, self.fixed = tasks, wordings or split, fixed
        self._media = tuple(shares)
        self._bounds = np.cumsum([shares[medium] for medium in self._media])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} chats; got number {index}")
        rng = np.random.default_rng([self.seed, index])
        medium = self._media[int(np.searchsorted(self._bounds, rng.random() * self._bounds[-1], side="right"))]
        kind: Kind = KINDS[int(rng.integers(len(KINDS)))] if medium == "text" else medium
        scene = sample(kind, self.split, rng, **self.fixed)
        if medium == "text":
            about: dict[str, Any] = {"type": "text", "text": caption(scene, rng, self.wordings)}
        else:
            about = {"type": BLOCKS[kind], BLOCKS[kind]: shown(render(scene, rng))}
        asked = exchange(scene, rng, medium=medium, split=self.wordings, tasks=self.tasks)
        # Real chats begin a request on the line of the medium, or on the next.
        gap = "\n" if medium == "text" or rng.random() < 0.5 else ""
        content = [about, {"type": "text", "text": gap + asked.request}]
        chat = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": asked.answer}]}
        return {**chat, "alternatives": list(asked.alternatives)} if asked.alternatives else chat


def shown(array: Any) -> Any:
    """Return a rendered scene as an input that states its rate, if it is a sound or a clip."""
    if array.ndim == 1:
        return {"array": array, "sampling_rate": RATE}
    return {"array": array, "video_metadata": {"fps": FPS}} if array.ndim == 4 else array
