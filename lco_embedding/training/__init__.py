"""Training: generative pretraining, contrastive learning, hard negatives, merging of adapters, model soup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lco_embedding.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from lco_embedding.training.contrastive import ContrastiveArguments, train
    from lco_embedding.training.generative import GenerativeArguments, pretrain
    from lco_embedding.training.lora import merge_adapter
    from lco_embedding.training.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
    from lco_embedding.training.mining import mine_hard_negatives
    from lco_embedding.training.model_soup import soup

__all__ = [
    "CachedMultipleNegativesRankingLoss",
    "ContrastiveArguments",
    "GenerativeArguments",
    "MultipleNegativesRankingLoss",
    "merge_adapter",
    "mine_hard_negatives",
    "pretrain",
    "soup",
    "train",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CachedMultipleNegativesRankingLoss": "losses",
        "ContrastiveArguments": "contrastive",
        "GenerativeArguments": "generative",
        "MultipleNegativesRankingLoss": "losses",
        "merge_adapter": "lora",
        "mine_hard_negatives": "mining",
        "pretrain": "generative",
        "soup": "model_soup",
        "train": "contrastive",
    },
)
