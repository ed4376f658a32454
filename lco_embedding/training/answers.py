"""The loss of answers in generative pretraining, and what evaluation measures of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import EvalPrediction

IGNORED = -100
"""Label of a token that is no part of an answer, as transformers knows it."""


def answer_losses(logits: Tensor, labels: Tensor, alternatives: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each token of the answers, in nats.

    Args:
        logits: Shape (tokens of answers, vocabulary), in the order of the rows.
        labels: Shape (rows, tokens).
        alternatives: Shape (rows, most alternatives), padded with -100: tokens of which any may begin the last answer
            of the row; its loss is then the mean over them.

    Returns:
        Shape (tokens of answers,), in float32.
    """
    shifted = labels[:, 1:]
    answered = shifted != IGNORED
    losses = nn.functional.cross_entropy(logits.float(), shifted[answered], reduction="none")
    if alternatives is None:
        return losses
    known = alternatives != IGNORED
    rows = known.any(1).nonzero()[:, 0]
    # The last answer begins after the last token that is none; counted among all tokens of answers.
    length = shifted.shape[1]
    steps = torch.arange(length, device=labels.device)
    stop = torch.where(answered, steps, -1).amax(1)
    before = torch.where(~answered & (steps < stop[:, None]), steps, -1).amax(1)
    index = (answered.flatten().cumsum(0).view_as(answered) - 1)[rows, before[rows] + 1]
    soft = -torch.log_softmax(logits[index].float(), dim=-1)
    known, tokens = known[rows], alternatives[rows].clamp(min=0)
    return losses.index_copy(0, index, (soft.gather(1, tokens) * known).sum(1) / known.sum(1))


def answer_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Make `nll`, `accuracy` and `exact` of the sums of `prediction_step`, of shape (rows, 4)."""
    nll, right, exact, count = prediction.predictions.sum(axis=0).tolist()
    return {"nll": nll / count, "accuracy": right / count, "exact": exact / len(prediction.predictions)}
