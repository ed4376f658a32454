"""Analysis of embeddings: geometry by layer, kernel alignment, the scaling law, bounds, plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lco_embedding.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from lco_embedding.analysis.geometry import (
        alignment,
        anisotropy,
        by_layer,
        effective_rank,
        modality_gap,
        uniformity,
    )
    from lco_embedding.analysis.kernels import cka, cknna, kernel_alignment, mutual_knn, svcca, unbiased_cka
    from lco_embedding.analysis.layers import layer_embeddings
    from lco_embedding.analysis.pac_bayes import complexity_term, weight_divergence
    from lco_embedding.analysis.scaling_law import Point, ScalingLaw, fit, fit_pairs, generation_scores

__all__ = [
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
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Point": "scaling_law",
        "ScalingLaw": "scaling_law",
        "alignment": "geometry",
        "anisotropy": "geometry",
        "by_layer": "geometry",
        "cka": "kernels",
        "cknna": "kernels",
        "complexity_term": "pac_bayes",
        "effective_rank": "geometry",
        "fit": "scaling_law",
        "fit_pairs": "scaling_law",
        "generation_scores": "scaling_law",
        "kernel_alignment": "kernels",
        "layer_embeddings": "layers",
        "modality_gap": "geometry",
        "mutual_knn": "kernels",
        "svcca": "kernels",
        "unbiased_cka": "kernels",
        "uniformity": "geometry",
        "weight_divergence": "pac_bayes",
    },
)
