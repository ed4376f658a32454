"""The last room: the hidden state of the last token is the embedding."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling


class LastTokenPooling(Pooling):  # type: ignore[misc]
    """Take the hidden state of each row's last token, whichever side the padding is on.

    The same as `Pooling(dimension, "lasttoken")`, which it is saved as, without a pass over all tokens.

    Args:
        embedding_dimension: Width of the hidden states.
        pooling_mode: `"lasttoken"`, for the configuration files of `Pooling`.
        include_prompt: Kept for those files; the prompt is where the last token is, so it is always included.

    Raises:
        ValueError: The mode is another one.
    """

    def __init__(self, embedding_dimension: int, pooling_mode: str = "lasttoken", include_prompt: bool = True) -> None:
        if pooling_mode != "lasttoken":
            raise ValueError(
                f"LastTokenPooling pools the last token, but this checkpoint asks for {pooling_mode!r}; "
                "load it with sentence_transformers.SentenceTransformer"
            )
        super().__init__(embedding_dimension, pooling_mode="lasttoken", include_prompt=include_prompt)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Write `sentence_embedding`, of shape (rows, dimension), from `token_embeddings`.

        Args:
            features: Holds `token_embeddings` of shape (rows, tokens, dimension) and `attention_mask` of shape
                (rows, tokens), 1 for tokens and 0 for padding on either side.
            **kwargs: Unused.
        """
        hidden, mask = features["token_embeddings"], features["attention_mask"]
        # argmax finds the first maximum: counted from the end, the last token.
        last = mask.shape[1] - 1 - mask.to(torch.int32).flip(1).argmax(dim=1)
        features["sentence_embedding"] = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return features
