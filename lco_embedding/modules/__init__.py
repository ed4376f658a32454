"""The Sentence Transformers modules of an LCO model, and what they stand on."""

from lco_embedding.modules.inputs import InputError
from lco_embedding.modules.last_token_pooling import LastTokenPooling
from lco_embedding.modules.omni_transformer import OmniTransformer

__all__ = ["InputError", "LastTokenPooling", "OmniTransformer"]
