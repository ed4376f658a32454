"""Make the miniature checkpoint that ships in the package.

    python scripts/make_miniature.py

The weights are random, from a fixed seed: the miniature has the architecture, processor and template of the real
models, so that everything runs, but it has learned nothing yet.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch

from lco_embedding import LCOEmbedding
from lco_embedding.miniature import architecture

HOME = Path(__file__).parents[1]


def corpus() -> list[str]:
    """Return the texts that the tokenizer learns from: the documentation's and samples' own words."""
    texts = [*(HOME / "samples" / "sentences.txt").read_text(encoding="utf8").splitlines()] * 20
    texts += [path.read_text(encoding="utf8") for path in sorted(HOME.glob("*.md"))]
    return texts


def main() -> None:
    """Build the checkpoint and save it in bfloat16, in place of the old one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HOME / "lco_embedding" / "miniature" / "checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        architecture.build(folder, corpus(), seed=arguments.seed)
        model = LCOEmbedding(folder, device="cpu", local_files_only=True, model_kwargs={"dtype": torch.bfloat16})
        model.omni.processing_kwargs["video"]["size"] = dict(architecture.VIDEO_SIZE)
        shutil.rmtree(arguments.output, ignore_errors=True)
        model.save_pretrained(arguments.output, create_model_card=False)
    size = sum(path.stat().st_size for path in arguments.output.rglob("*") if path.is_file())
    print(f"{arguments.output.relative_to(HOME)}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
