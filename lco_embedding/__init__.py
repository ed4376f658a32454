"""Omnimodal embeddings: text, images, audio, video and mixtures in one space, through Sentence Transformers.

Nothing heavy is imported before it is used: the names below load on first access.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lco_embedding._version import __version__

if TYPE_CHECKING:
    from lco_embedding.model import LCOEmbedding
    from lco_embedding.modules import InputError, LastTokenPooling, OmniTransformer

_HOMES = {
    "LCOEmbedding": "lco_embedding.model",
    "InputError": "lco_embedding.modules",
    "LastTokenPooling": "lco_embedding.modules",
    "OmniTransformer": "lco_embedding.modules",
}

__all__ = ["InputError", "LCOEmbedding", "LastTokenPooling", "OmniTransformer", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
