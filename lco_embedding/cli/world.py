"""`lco-embedding world`: the miniature's world as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lco_embedding.cli.arguments import option, parse

if TYPE_CHECKING:
    from lco_embedding.miniature.world import Kind


@dataclass(frozen=True)
class WorldArguments:
    """Write the miniature's world to a folder: real files, an any-to-any index and chats, to train and test on.

    index.jsonl is for `lco-embedding train`, captions.jsonl for the same on text alone, and chat.jsonl for
    `lco-embedding pretrain`.
    """

    folder: str = option("where to write", positional=True)
    split: str = option("which scenes to write", "train", choices=("train", "dev", "test"))
    images: int = option("how many images", 200)
    sounds: int = option("how many sounds", 200)
    clips: int = option("how many clips", 200)
    documents: int = option("how many documents", 100)
    captions: int = option("how many triplets of captions", 6400)
    seed: int = option("seed of the scenes, their renderings and texts", 0)


def main(argv: Sequence[str]) -> int:
    """Write the world.

    Returns:
        0.
    """
    arguments = parse(WorldArguments, argv, "lco-embedding world")
    from lco_embedding.miniature.world import write

    counts: dict[Kind, int] = {
        "image": arguments.images,
        "sound": arguments.sounds,
        "clip": arguments.clips,
        "document": arguments.documents,
    }
    folder = write(arguments.folder, arguments.split, counts, arguments.seed, arguments.captions)  # type: ignore[arg-type]
    print(f"{sum(counts.values())} scenes of the {arguments.split} split written to {folder}")
    return 0
