"""How good embeddings are: retrieval figures with intervals."""

from lco_embedding.evaluation.retrieval import Estimate, Retrieval, evaluate_retrieval

__all__ = ["Estimate", "Retrieval", "evaluate_retrieval"]
