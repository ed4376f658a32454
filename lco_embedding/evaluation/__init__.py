"""How good embeddings are: retrieval figures with intervals, on your own pairs, and the benchmarks of mteb."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lco_embedding.evaluation.retrieval import Estimate, Retrieval, evaluate_retrieval

if TYPE_CHECKING:
    from lco_embedding.evaluation.mteb_encoder import MtebEncoder
    from lco_embedding.evaluation.pairs import evaluate_pairs

__all__ = ["Estimate", "MtebEncoder", "Retrieval", "evaluate_pairs", "evaluate_retrieval"]

# What holds a model, or needs mteb, is imported when it is asked for.
LATER = {"MtebEncoder": "mteb_encoder", "evaluate_pairs": "pairs"}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "MtebEncoder":
        require_mteb()
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)


def require_mteb() -> None:
    """Raise an error that names the extra if mteb is not installed.

    Raises:
        ImportError: It is not.
    """
    if find_spec("mteb") is None:
        raise ImportError("this needs mteb: pip install 'lco-embedding[evaluate]', with Python 3.11 or later")
