"""Each public name has one documented place to import it from."""

from __future__ import annotations

from importlib import import_module

import pytest

PUBLIC = {
    "lco_embedding": {"InputError", "LCOEmbedding", "LastTokenPooling", "OmniTransformer", "__version__"},
    "lco_embedding.training": {
        "CachedMultipleNegativesRankingLoss",
        "ContrastiveArguments",
        "GenerativeArguments",
        "MultipleNegativesRankingLoss",
        "merge_adapter",
        "mine_hard_negatives",
        "pretrain",
        "soup",
        "train",
    },
    "lco_embedding.evaluation": {"Estimate", "MtebEncoder", "Retrieval", "evaluate_pairs", "evaluate_retrieval"},
    "lco_embedding.analysis": {
        "Point",
        "ScalingLaw",
        "alignment",
        "anisotropy",
        "by_layer",
        "cka",
        "cknna",
        "complexity_term",
        "effective_rank",
        "fit",
        "fit_pairs",
        "generation_scores",
        "kernel_alignment",
        "layer_embeddings",
        "modality_gap",
        "mutual_knn",
        "svcca",
        "unbiased_cka",
        "uniformity",
        "weight_divergence",
    },
    "lco_embedding.hub": {"Finding", "VerificationError", "export", "publish", "upload", "verify"},
    "lco_embedding.model_cards": {"LCOModelCardData", "card_text", "save_card", "write_card"},
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    module = import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    for name in module.__all__:
        value = getattr(module, name)
        assert not isinstance(value, type(module)), f"{name} of {package} is a module"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
