"""Ranking losses of Sentence Transformers, made right for batches of any media, and with likely false negatives masked.

    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / 0.03, mini_batch_size=8)
    trainer = SentenceTransformerTrainer(model, args, train_dataset=pairs, loss=loss)

What stock lacks, and how this differs, is written down in `docs/cached_loss.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import RandContext
from sentence_transformers.sentence_transformer import losses as stock
from sentence_transformers.util import get_rank
from torch import Tensor

from lco_embedding.modules.feature_slices import slice_rows

Similarity = Callable[[Tensor, Tensor], Tensor]


class MultipleNegativesRankingLoss(stock.MultipleNegativesRankingLoss):  # type: ignore[misc]
    """The InfoNCE loss of Sentence Transformers, which can leave likely false negatives out.

    Args:
        model: The model that is trained.
        *args: As in the parent class: `scale`, the inverse of the temperature, and `similarity_fct`.
        false_negative_margin: A candidate is left out of an anchor's softmax if its similarity to the anchor is
            greater than that of the anchor's positive minus this margin. That holds for the candidates of other rows
            and for the row's own hard negatives, as in `GISTEmbedLoss`, but with the model's own similarities instead
            of a guide's. -0.1 is the rule of Qwen3-Embedding (arXiv 2506.05176). None masks nothing.
        **kwargs: As in the parent class.

    Raises:
        ValueError: The margin is not finite, or `directions` has others than "query_to_doc" beside it.
    """

    def __init__(
        self, model: SentenceTransformer, *args: Any, false_negative_margin: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, *args, **kwargs)
        _check_margin(false_negative_margin, self.directions)
        self.false_negative_margin = false_negative_margin

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Compute the loss from one tensor of shape (rows, dimension) for each column; labels are unused."""
        with _masking(self, self.false_negative_margin, len(embeddings[0])):
            loss: Tensor = super().compute_loss_from_embeddings(embeddings, labels)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for the model card."""
        return {**super().get_config_dict(), "false_negative_margin": self.false_negative_margin}


class CachedMultipleNegativesRankingLoss(stock.CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """The same loss with gradient caching: large batches of any media in the memory of a mini-batch.

    Args:
        model: The model that is trained.
        *args: As in the parent class: `scale`, `similarity_fct`, `mini_batch_size`, ...
        false_negative_margin: As in `MultipleNegativesRankingLoss`.
        **kwargs: As in the parent class.

    Raises:
        ValueError: The margin is not finite, or `directions` has others than "query_to_doc" beside it.
    """

    def __init__(
        self, model: SentenceTransformer, *args: Any, false_negative_margin: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, *args, **kwargs)
        _check_margin(false_negative_margin, self.directions)
        self.false_negative_margin = false_negative_margin
        # The trainer wraps the model later, which hides its configuration.
        self.audio_start_token_id: int | None = getattr(model[0].config, "audio_start_token_id", None)

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Any],
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        """Embed the rows from `begin` up to `end` of a column.

        Replaces the parent's method, whose slices mistake media for rows.

        Args:
            sentence_feature: The features of the column, as `preprocess` returns them.
            begin: First row.
            end: Row after the last.
            with_grad: Whether to build a graph.
            copy_random_state: Whether to return the state of the random generators before the forward pass.
            random_state: Such a state, for the pass to draw the same dropout again.

        Returns:
            Embeddings of shape (end - begin, dimension), and the state.
        """
        batch = slice_rows(sentence_feature, begin, end, self.audio_start_token_id)
        with random_state or nullcontext(), nullcontext() if with_grad else torch.no_grad():
            state = RandContext(*batch.values()) if copy_random_state else None
            return self.model(batch)["sentence_embedding"], state

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss from tensors of shape (mini-batch, dimension) for each column; labels are unused."""
        with _masking(self.loss, self.false_negative_margin, sum(map(len, reps[0]))):
            loss: Tensor = super().calculate_loss(reps, labels, with_backward=with_backward)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for the model card."""
        return {**super().get_config_dict(), "false_negative_margin": self.false_negative_margin}


def _check_margin(margin: float | None, directions: tuple[str, ...]) -> None:
    if margin is None:
        return
    if not math.isfinite(margin):
        raise ValueError(f"false_negative_margin is {margin}; it must be finite, or None to mask nothing")
    if directions != ("query_to_doc",):
        raise ValueError(
            f"false_negative_margin works with directions=('query_to_doc',), got {directions}; drop one of the two"
        )


@contextmanager
def _masking(loss: stock.MultipleNegativesRankingLoss, margin: float | None, rows: int) -> Iterator[None]:
    """Put a masked similarity in the place of the one that a loss has, while it computes the loss of so many rows."""
    if margin is None:
        yield
        return
    first = get_rank() * rows if loss.gather_across_devices else 0
    masked = MaskedSimilarity(loss.similarity_fct, margin, first)
    # A similarity that is a module is registered elsewhere; what is here hides it.
    attributes = vars(loss)
    before = {key: value for key, value in attributes.items() if key == "similarity_fct"}
    attributes["similarity_fct"] = masked
    try:
        yield
    finally:
        del attributes["similarity_fct"]
        attributes.update(before)


class MaskedSimilarity:
    """Similarities of anchors to candidates, minus infinity for likely false negatives.

    Each anchor is scored once and in order, in one call or chunk by chunk, so that counting them tells which candidate
    is the positive of each.

    Args:
        similarity: Maps anchors (rows, dimension) and candidates (candidates, dimension) to (rows, candidates).
        margin: A candidate that is nearer than the positive minus this is masked.
        first: The candidate that is the positive of the first anchor; the following are those of the following.
    """

    def __init__(self, similarity: Similarity, margin: float, first: int = 0) -> None:
        self.similarity = similarity
        self.margin = margin
        self.next = first

    def __call__(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Return similarities of shape (rows, candidates)."""
        scores = self.similarity(anchors, candidates)
        rows = torch.arange(len(anchors), device=scores.device)
        positives = (rows, rows + self.next)
        self.next += len(anchors)
        masked = scores > scores[positives][:, None] - self.margin
        masked[positives] = False
        return scores.masked_fill(masked, -torch.inf)
