"""Write the model cards of the miniature, and of the published LCO models.

    python scripts/make_cards.py                      # of the miniature, in the package
    python scripts/make_cards.py --published cards/   # of LCO-Embedding-Omni-3B, -7B and -3B-2605, as files

The published models are not loaded: what is known about them stands below, from `lco_embedding_models.py` of mteb
2.26 (dimension, parameters, licence) and from LCO-Emb (arXiv 2510.11693).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lco_embedding.checkpoints.builtin import CHECKPOINTS
from lco_embedding.checkpoints.info import Checkpoint
from lco_embedding.model_cards import LCOModelCardData, card_text, write_card
from lco_embedding.modules.backbones import BACKBONES

OWNER = "LCO-Embedding"
PUBLISHED = {
    "LCO-Embedding-Omni-3B": ("Qwen/Qwen2.5-Omni-3B", 2048, 4_703_464_448, "mit"),
    "LCO-Embedding-Omni-7B": ("Qwen/Qwen2.5-Omni-7B", 3584, 8_931_813_888, "mit"),
    "LCO-Embedding-Omni-3B-2605": ("Qwen/Qwen2.5-Omni-3B", 2048, 4_703_464_448, "apache-2.0"),
}
"""Base, dimension, parameters and licence of the published models."""

PUBLISHED_PROMPTS = {
    content: f"\nSummarize the above {content.split(',')[0]} in one word:<|im_end|>\n<|im_start|>assistant\n"
    for content in ("text", "image", "audio", "video", "image, text", "audio, text", "video, text")
}
"""What their chat template writes after content: one prompt an input, image over video over audio over text, as
`lco_embedding_models.py` of mteb 2.26 has it from that template."""

MINIATURE = {
    "embedding": """\
# LCO-Emb miniature

An omnimodal embedding model of 1.4 M parameters with the classes, processor and chat template of Qwen2.5-Omni. It knows
a small procedural world of pictures, sounds, speech and clips, and nothing else: it is for tests, examples and
experiments on a laptop. `LCOEmbedding.miniature()` loads it.
""",
    "base": """\
# LCO-Emb miniature, generative base

A Qwen2.5-Omni thinker of 1.4 M parameters that answers about the pictures, sounds and clips of a small procedural
world. It has never been trained to embed, nor seen the embedding prompt. It does not read documents: of unseen pages
it transcribes none right.
""",
}
"""Title and what a person has to say of the miniature's checkpoints."""


def published_card(name: str) -> str:
    """Return the card of a published model."""
    base, dimension, parameters, license_ = PUBLISHED[name]
    checkpoint = Checkpoint(
        name=name,
        backbone=BACKBONES[0],
        architecture=BACKBONES[0].generation_class,
        dimension=dimension,
        parameters=parameters,
        dtype="bfloat16",
        prompts=PUBLISHED_PROMPTS,
    )
    data = LCOModelCardData(
        license=license_, language="en", model_id=f"{OWNER}/{name}", base=base, local_files_only=True
    )
    return card_text(checkpoint, data)


def miniature_card(part: str) -> None:
    """Write the card of a checkpoint of the miniature."""
    folder = CHECKPOINTS[part]
    (folder / "README.md").unlink(missing_ok=True)
    data = LCOModelCardData(license="apache-2.0", language="en", model_name="TITLE", local_files_only=True)
    path = write_card(folder, data)
    path.write_text(path.read_text(encoding="utf8").replace("# TITLE\n", MINIATURE[part], 1), encoding="utf8")


def main() -> None:
    """Write the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="folder for the cards of the published models")
    arguments = parser.parse_args()
    if arguments.published is None:
        for part in MINIATURE:
            miniature_card(part)
            print(f"written to {CHECKPOINTS[part] / 'README.md'}")
        return
    arguments.published.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        path = arguments.published / f"{name}.md"
        path.write_text(published_card(name), encoding="utf8")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
