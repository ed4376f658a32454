"""Gradient caching and masking change what a step costs, not what it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses as stock
from sentence_transformers.sentence_transformer.losses import cached_multiple_negatives_ranking as cached_ranking
from sentence_transformers.sentence_transformer.losses import multiple_negatives_ranking as ranking
from torch import Tensor, nn

from lco_embedding import LCOEmbedding
from lco_embedding.training import losses
from lco_embedding.training.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
from tests.conftest import clip, mixed_inputs, noise, tone

Step = tuple[float, dict[str, Tensor]]
SCALE = 1 / 0.03
TEXTS = ["a red circle", "x", "the sound of a low flute, rising and falling", "seven", "a small green star moves up"]
SEEN = {"video": {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}}
HEARD = {"video": {**SEEN["video"], "load_audio_from_video": True}}


SOUNDS = [{"array": tone(0.3 * k, 200.0 * k), "sampling_rate": 16_000} for k in range(1, 6)]
IMAGES = [noise(84, 56 + 28 * k, 3, seed=k) for k in range(5)]
CLIPS = [clip(frames=8 * k, seed=k) for k in (1, 2, 4, 1, 3)]
VIDEOS = [{"video": value} for value in CLIPS]
HEARD_VIDEOS = [{"video": {**value, "audio": audio}} for value, audio in zip(CLIPS, SOUNDS, strict=True)]


def rotated(values: Sequence[Any], *places: int) -> list[list[Any]]:
    return [[*values[by:], *values[:by]] for by in places]


MIXTURES = rotated(
    [
        *mixed_inputs(),
        {"audio": [SOUNDS[0], SOUNDS[3]], "video": CLIPS[0], "text": "much"},
        {"video": [CLIPS[1], HEARD_VIDEOS[0]["video"]]},
    ],
    *(0, 3, 5),
)
"""Columns whose rows are of different kinds, with several media in a row."""

COLUMNS: dict[str, list[list[Any]]] = {
    "text": rotated(TEXTS, 0, 1, 2),
    "image": [TEXTS, IMAGES],
    "audio": [TEXTS, *rotated(SOUNDS, 0, 1)],
    "video": [VIDEOS, TEXTS],
    "heard video": [HEARD_VIDEOS, TEXTS],
    "text or audio": rotated([*TEXTS[:2], *SOUNDS[:3]], 0, 2),
    "text or video": rotated([*TEXTS[:2], *VIDEOS[:3]], 0, 2),
    "mixed": MIXTURES,
}


def step(loss: Any, columns: Sequence[Sequence[Any]], settings: dict[str, Any] | None = None) -> Step:
    """Return the loss of a batch and the gradient of every parameter."""
    model = loss.model
    model.zero_grad()
    batches = [model.preprocess(list(column), processing_kwargs=settings) for column in columns]
    value = loss([{key: _as_wide(entry, model.dtype) for key, entry in batch.items()} for batch in batches], None)
    value.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return value.item(), gradients


def _as_wide(entry: Any, dtype: torch.dtype) -> Any:
    return entry.to(dtype) if isinstance(entry, Tensor) and entry.is_floating_point() else entry


def norm(gradients: dict[str, Tensor]) -> float:
    return float(sum(gradient.square().sum() for gradient in gradients.values()) ** 0.5)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return norm({name: found[name] - expected[name] for name in expected}) / norm(expected)


def assert_same(found: Step, expected: Step) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    whole = norm(expected[1])
    assert whole > 1e-3, "there is nothing to compare"
    assert distance(found[1], expected[1]) < 1e-5
    for name, gradient in expected[1].items():
        # Some parameters, as the biases of keys, have no gradient but rounding.
        assert (found[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * whole, name


@pytest.fixture
def adapted(model: LCOEmbedding) -> LCOEmbedding:
    """A model with LoRA that drops out."""
    targets = model.omni.backbone.lora_targets
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(5)
    model.add_adapter(config)
    return model.train()


# --- gradient caching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COLUMNS)
def test_caching_changes_neither_loss_nor_gradients(thinker: Path, kind: str) -> None:
    # In float64, so that the bounds measure the method and not the rounding of long rows.
    model = LCOEmbedding(thinker, device="cpu", model_kwargs={"dtype": torch.float64})
    settings = HEARD if kind == "heard video" else SEEN
    expected = step(stock.MultipleNegativesRankingLoss(model, scale=SCALE), COLUMNS[kind], settings)
    for size in (1, 2, 3, 16):
        cached = CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=size)
        assert_same(step(cached, COLUMNS[kind], settings), expected)


@pytest.mark.parametrize("architecture", ["thinker", "qwen2_5_vl", "llava_next"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_caching_holds_for_every_backbone(architecture: str, side: str, checkpoints: Callable[[str], Path]) -> None:
    model = LCOEmbedding(checkpoints(architecture), device="cpu")
    model.tokenizer.padding_side = side
    rows = [*TEXTS[:3], *IMAGES[:2], {"image": IMAGES[:2], "text": "two of them"}]
    if architecture != "llava_next":
        rows += [VIDEOS[0], {"video": CLIPS[:2], "image": IMAGES[3]}]
    columns = MIXTURES if architecture == "thinker" else rotated(rows, 0, 1, 2)
    settings = HEARD if architecture == "thinker" else None
    expected = step(stock.MultipleNegativesRankingLoss(model, scale=SCALE), columns, settings)
    for size in (1, 2, 3, 16):
        cached = CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=size)
        assert_same(step(cached, columns, settings), expected)


OPTIONS: list[dict[str, Any]] = [
    {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    {"gather_across_devices": True, "hardness_mode": "all_negatives", "hardness_strength": 5.0},
    {"false_negative_margin": 0.001},
    {"false_negative_margin": -0.001, "hardness_mode": "in_batch_negatives", "hardness_strength": 5.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_caching_holds_under_every_option(shared_model: LCOEmbedding, options: dict[str, Any]) -> None:
    expected = step(MultipleNegativesRankingLoss(shared_model, scale=SCALE, **options), MIXTURES, SEEN)
    for sizes in ({"mini_batch_size": 3}, {"mini_batch_size": 4, "mini_batch_num_tokens": 200}):
        cached = CachedMultipleNegativesRankingLoss(shared_model, scale=SCALE, **sizes, **options)
        assert_same(step(cached, MIXTURES, SEEN), expected)


def test_caching_holds_in_stock_models(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    shared_model.save_pretrained(tmp_path, create_model_card=False)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    media = {"text": "and", "image": IMAGES[0]}, SOUNDS[0], {"text": "or", "audio": SOUNDS[1]}
    columns = rotated([*TEXTS[:2], *media], 0, 2)
    expected = step(stock.MultipleNegativesRankingLoss(model, scale=SCALE), columns)
    assert_same(step(CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=2), columns), expected)


@pytest.mark.parametrize("kind", ["text or audio", "text or video", "mixed"])
def test_stock_mistakes_media_for_rows(shared_model: LCOEmbedding, kind: str) -> None:
    """If this fails, stock has learned it and the subclass can go."""
    cached = stock.CachedMultipleNegativesRankingLoss(shared_model, scale=SCALE, mini_batch_size=2)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        step(cached, COLUMNS[kind], SEEN)


def test_the_trainer_learns_the_same(thinker: Path, samples: Path, tmp_path: Path) -> None:
    sounds = [str(path) for path in sorted((samples / "sounds").iterdir())[:3]]
    anchors, positives = rotated([TEXTS[0], *sounds, str(next((samples / "images").iterdir())), *TEXTS[1:]], 0, 2)
    dataset = Dataset.from_dict({"anchor": anchors, "positive": positives})

    def trained(loss_class: type, **options: Any) -> dict[str, Tensor]:
        model = LCOEmbedding(thinker, device="cpu")
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=8, optim="sgd", learning_rate=1.0,
            max_grad_norm=0.0, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        loss = loss_class(model, scale=SCALE, **options)
        SentenceTransformerTrainer(model, arguments, dataset, loss=loss).train()
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    before = {name: p.detach() for name, p in LCOEmbedding(thinker, device="cpu").named_parameters()}
    expected = trained(stock.MultipleNegativesRankingLoss)
    found = trained(CachedMultipleNegativesRankingLoss, mini_batch_size=3)
    assert distance(expected, before) > 1e-3, "nothing was learned"
    assert distance(found, expected) < 1e-4 * distance(expected, before)


@pytest.mark.parametrize("size", [2, 16])
def test_both_passes_drop_out_the_same(adapted: LCOEmbedding, size: int) -> None:
    cached = CachedMultipleNegativesRankingLoss(adapted, scale=SCALE, mini_batch_size=size)

    plain = stock.MultipleNegativesRankingLoss(adapted, scale=SCALE)

    def embed_once(features: dict[str, Any]) -> Tensor:
        return torch.cat([part for part, _ in cached.embed_minibatch_iter(features, True, False)])

    def seeded(loss: Any, seed: int) -> Step:
        torch.manual_seed(seed)
        return step(loss, MIXTURES[:2], HEARD)

    if size == 16:  # one mini-batch: the plain loss as it is
        assert_same(seeded(cached, 0), seeded(plain, 0))
    plain.forward = lambda batch, labels: plain.compute_loss_from_embeddings([*map(embed_once, batch)], labels)
    expected = seeded(plain, 0)
    assert_same(seeded(cached, 0), expected)
    assert distance(seeded(cached, 1)[1], expected[1]) > 0.1, "nothing is dropped out"


def test_gradient_checkpointing_changes_nothing(adapted: LCOEmbedding) -> None:
    cached = CachedMultipleNegativesRankingLoss(adapted, scale=SCALE, mini_batch_size=3)

    def seeded() -> Step:
        torch.manual_seed(0)
        return step(cached, MIXTURES[:2], HEARD)

    expected = seeded()
    adapted.omni.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert adapted.omni.model.is_gradient_checkpointing
    assert_same(seeded(), expected)


# --- false negatives ------------------------------------------------------------------------------------------------


def dense(anchors: Tensor, candidates: Tensor, scale: float, margin: float, first: int = 0) -> Tensor:
    """The masked loss, written out."""
    total = torch.zeros(())
    for row, anchor in enumerate(anchors):
        similarities = [torch.cosine_similarity(anchor, candidate, dim=0) for candidate in candidates]
        positive = similarities[first + row]
        kept = [s for index, s in enumerate(similarities) if index == first + row or s <= positive - margin]
        total = total - torch.log((scale * positive).exp() / sum((scale * s).exp() for s in kept))
    return total / len(anchors)


def both(model: LCOEmbedding, embeddings: list[Tensor], **options: Any) -> list[tuple[float, list[Tensor]]]:
    """Loss and gradients of embeddings, by the plain loss and by the cached one in chunks of three."""
    plain, cached = ([embedding.clone().requires_grad_() for embedding in embeddings] for _ in range(2))
    value = MultipleNegativesRankingLoss(model, **options).compute_loss_from_embeddings(plain, torch.empty(0))
    value.backward()
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=3, **options)
    again = loss.calculate_loss([[leaf] for leaf in cached], with_backward=True)
    return [(value.item(), [leaf.grad for leaf in plain]), (again.item(), [leaf.grad for leaf in cached])]


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_losses_in_closed_form(shared_model: LCOEmbedding, negatives: int) -> None:
    rows, candidates = 6, 6 * (1 + negatives)
    equal = [torch.ones(rows, 32)] * (2 + negatives)
    for value, _ in both(shared_model, equal, scale=SCALE):
        assert value == pytest.approx(math.log(candidates), abs=1e-5)
    # Each anchor is its positive, and at right angles to all else.
    basis = torch.eye(32)
    apart = [basis[:rows], *(basis[rows * n : rows * (n + 1)] for n in range(1 + negatives))]
    for value, _ in both(shared_model, apart, scale=3.0):
        assert value == pytest.approx(math.log1p((candidates - 1) * math.exp(-3.0)), abs=1e-5)


@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.1, 0.3])
def test_masked_loss_is_the_one_written_out(shared_model: LCOEmbedding, margin: float) -> None:
    torch.manual_seed(0)
    embeddings = list(torch.randn(3, 8, 6, dtype=torch.float64))
    leaves = [embedding.clone().requires_grad_() for embedding in embeddings]
    expected = dense(leaves[0], torch.cat(leaves[1:]), 7.0, margin)
    expected.backward()
    unmasked = both(shared_model, embeddings, scale=7.0)[0][0]
    assert abs(unmasked - expected.item()) > 1e-3, "nothing is masked"
    for value, gradients in both(shared_model, embeddings, scale=7.0, false_negative_margin=margin):
        assert value == pytest.approx(expected.item(), abs=1e-6)
        torch.testing.assert_close(gradients, [leaf.grad for leaf in leaves])


def test_without_candidates_the_masked_loss_is_zero(shared_model: LCOEmbedding) -> None:
    embeddings = [torch.zeros(4, 6)] * 3
    for value, gradients in both(shared_model, embeddings, false_negative_margin=0.1):
        assert value == 0.0
        assert all(gradient.isfinite().all() for gradient in gradients)
    for value, _ in both(shared_model, embeddings, false_negative_margin=0.0):
        assert value == pytest.approx(torch.tensor(8.0).log().item()), "equals were masked"


def test_masking_knows_the_rows_of_its_process(shared_model: LCOEmbedding, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    anchors, positives = embeddings = list(torch.randn(2, 4, 6))
    for module in (cached_ranking, ranking):  # the second of two processes
        monkeypatch.setattr(module, "all_gather_with_grad", lambda own: torch.cat([own.flip(1), own]))
        monkeypatch.setattr(module, "get_rank", lambda: 1)
    monkeypatch.setattr(losses, "get_rank", lambda: 1)
    expected = dense(anchors, torch.cat([positives.flip(1), positives]), 7.0, 0.1, first=4).item()
    for value, _ in both(shared_model, embeddings, scale=7.0, false_negative_margin=0.1, gather_across_devices=True):
        assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss_class", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_masking_leaves_the_similarity_as_it_was(shared_model: LCOEmbedding, loss_class: type) -> None:
    class Dot(nn.Module):
        def forward(self, anchors: Tensor, candidates: Tensor) -> Tensor:
            return anchors @ candidates.T

    for similarity in (stock.MultipleNegativesRankingLoss(shared_model).similarity_fct, Dot()):
        loss = loss_class(shared_model, similarity_fct=similarity, false_negative_margin=-0.1)
        first = step(loss, rotated(TEXTS, 0, 1))
        assert loss.similarity_fct is similarity
        assert_same(step(loss, rotated(TEXTS, 0, 1)), first)
        assert loss.get_config_dict()["false_negative_margin"] == -0.1


@pytest.mark.parametrize("loss_class", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_margins_that_mean_nothing_are_refused(shared_model: LCOEmbedding, loss_class: type) -> None:
    with pytest.raises(ValueError, match="false_negative_margin is nan; it must be finite"):
        loss_class(shared_model, false_negative_margin=float("nan"))
    with pytest.raises(ValueError, match=r"works with directions=\('query_to_doc',\), got \('query_to_doc', 'doc_to"):
        loss_class(shared_model, false_negative_margin=0.1, directions=("query_to_doc", "doc_to_query"))
