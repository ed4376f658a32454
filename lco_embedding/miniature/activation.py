"""The claim of LCO-Emb in miniature: contrastive training on text alone, which never sees the towers.

folder = activate(checkpoint_of("miniature", "base"), "tuned", seed=0)
evaluate(LCOEmbedding(folder))      # of `lco_embedding.miniature.benchmark`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lco_embedding.miniature.world.triplets import Triplets
from lco_embedding.training.arguments import read_recipe
from lco_embedding.training.contrastive import ContrastiveArguments, train

RECIPE = "miniature_text_only"


def activate(base: str | Path, folder: str | Path, seed: int = 0, **overrides: Any) -> Path:
    """Train a generative checkpoint of the miniature to embed, on captions alone.

    Args:
        base: The checkpoint.
        folder: Where to write the embedding model.
        seed: Seed of the triplets and of the training.
        **overrides: Arguments over those of the recipe `miniature_text_only`.

    Returns:
        The folder.
    """
    from datasets import Dataset

    arguments = ContrastiveArguments(
        **{
            **read_recipe(RECIPE, ContrastiveArguments),
            "model": str(base),
            "output_dir": str(folder),
            "seed": seed,
            "use_cpu": True,
            "disable_tqdm": True,
            **overrides,
        }
    )
    triplets = Triplets(arguments.max_steps * arguments.per_device_train_batch_size, seed)
    return train(arguments, Dataset.from_list([triplets[index] for index in range(len(triplets))]))
