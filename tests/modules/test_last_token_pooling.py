"""Last-token pooling equals the stock one on either padding side."""

from __future__ import annotations

import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from lco_embedding import LastTokenPooling


def test_equals_stock_pooling_and_picks_the_last_token() -> None:
    hidden = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]])
    features = {"token_embeddings": hidden, "attention_mask": mask}
    ours = LastTokenPooling(3)(dict(features))["sentence_embedding"]
    assert torch.equal(ours, Pooling(3, "lasttoken")(dict(features))["sentence_embedding"])
    assert torch.equal(ours, torch.stack([hidden[0, 5], hidden[1, 2], hidden[2, 5], hidden[3, 4]]))


def test_gradient_reaches_only_the_last_token() -> None:
    hidden = torch.ones(1, 3, 2, requires_grad=True)
    features = {"token_embeddings": hidden, "attention_mask": torch.tensor([[1, 1, 0]])}
    LastTokenPooling(2)(features)["sentence_embedding"].sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[0].sum(dim=1).tolist() == [0, 2, 0]
