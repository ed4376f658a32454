"""The world of the miniature: scenes that can be seen, heard, read and told, all made from a seed.

    rng = np.random.default_rng(0)
    scene = sample("clip", "train", rng)
    frames, text = render(scene, rng), caption(scene, rng)

Pretraining, tests, benchmarks and examples draw from it; [`write`] puts it on disk as real files.
"""

from lco_embedding.miniature.world.captions import caption, text_of
from lco_embedding.miniature.world.clips import FPS
from lco_embedding.miniature.world.exchanges import TASKS, Exchange, Medium, Task, exchange, question, summary
from lco_embedding.miniature.world.files import write, write_medium
from lco_embedding.miniature.world.pictures import SIZE
from lco_embedding.miniature.world.rendering import render
from lco_embedding.miniature.world.scenes import (
    DOMAINS,
    KINDS,
    SPLITS,
    SPOKEN_WORDS,
    Kind,
    Scene,
    Split,
    hard_negative,
    sample,
    sample_distinct,
    scenes_of,
    split_of,
)
from lco_embedding.miniature.world.sounds import RATE

__all__ = [
    "DOMAINS",
    "FPS",
    "KINDS",
    "RATE",
    "SIZE",
    "SPLITS",
    "SPOKEN_WORDS",
    "TASKS",
    "Exchange",
    "Kind",
    "Medium",
    "Scene",
    "Split",
    "Task",
    "caption",
    "exchange",
    "hard_negative",
    "question",
    "render",
    "sample",
    "sample_distinct",
    "scenes_of",
    "split_of",
    "summary",
    "text_of",
    "write",
    "write_medium",
]
