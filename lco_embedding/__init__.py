"""Omnimodal embeddings: text, images, audio, video and mixtures in one space, through Sentence Transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lco_embedding._version import __version__
from lco_embedding.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from lco_embedding.model import LCOEmbedding
    from lco_embedding.modules import InputError, LastTokenPooling, OmniTransformer

__all__ = ["InputError", "LCOEmbedding", "LastTokenPooling", "OmniTransformer", "__version__"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "InputError": "modules",
        "LCOEmbedding": "model",
        "LastTokenPooling": "modules",
        "OmniTransformer": "modules",
    },
)
