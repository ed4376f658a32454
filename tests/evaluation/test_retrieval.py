"""Retrieval figures: closed forms, an independent formula, chance, and ties that help nobody."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lco_embedding.evaluation import Estimate, evaluate_retrieval, retrieval
from lco_embedding.evaluation.retrieval import rank_relevant, score_ranks


def rows(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def ranked(*ranks: int | list[int]) -> list[NDArray[np.int64]]:
    return [np.atleast_1d(np.array(each)) for each in ranks]


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_follow_from_ranks() -> None:
    result = score_ranks(ranked(1, 2, 7, 11), documents=20)
    assert (result.queries, result.documents) == (4, 20)
    assert {k: each.value for k, each in result.recall.items()} == {1: 0.25, 5: 0.5, 10: 0.75}
    assert result.ndcg[1].value == 0.25
    assert result.ndcg[5].value == pytest.approx((1 + 1 / math.log2(3)) / 4)
    assert result.ndcg[10].value == pytest.approx((1 + 1 / math.log2(3) + 1 / 3) / 4)
    assert result.mrr.value == pytest.approx((1 + 1 / 2 + 1 / 7 + 1 / 11) / 4)
    assert set(result.figures()) == {"recall@1", "recall@5", "recall@10", "ndcg@1", "ndcg@5", "ndcg@10", "mrr"}
    assert result.figures()["ndcg@10"] == result.ndcg[10].value


def test_several_relevant_documents_share_the_gain() -> None:
    result = score_ranks(ranked([1, 2, 3], [2, 4, 9]), documents=20, ks=(2, 3))
    assert result.recall[2].value == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert result.recall[3].value == pytest.approx((1 + 1 / 3) / 2)
    ideal = 1 + 1 / math.log2(3)
    assert result.ndcg[2].value == pytest.approx((1 + (1 / math.log2(3)) / ideal) / 2)
    assert result.ndcg[3].value == pytest.approx((1 + (1 / math.log2(3)) / (ideal + 0.5)) / 2)
    assert result.mrr.value == pytest.approx((1 + 1 / 2) / 2)


def test_an_identity_is_perfect_and_its_reverse_the_worst() -> None:
    result = evaluate_retrieval(np.eye(12), np.eye(12), range(12))
    assert set(result.figures().values()) == {1.0}
    assert result.ndcg[10] == Estimate(1.0, 1.0, 1.0)
    assert [each.tolist() for each in rank_relevant(np.eye(12), -np.eye(12), range(12))] == [[12]] * 12


def test_intervals_hold_the_mean_and_narrow_with_more_queries() -> None:
    rng = np.random.default_rng(0)
    few, many = (score_ranks(ranked(*rng.integers(1, 21, count).tolist()), 20) for count in (50, 5000))
    for result in (few, many):
        assert result.recall[10].low < result.recall[10].value < result.recall[10].high
    wide, narrow = (each.recall[10].high - each.recall[10].low for each in (few, many))
    # The normal interval of a share of one half is 2 * 1.96 * sqrt(1 / (4 n)) wide.
    assert wide == pytest.approx(1.96 / math.sqrt(50), rel=0.2)
    assert narrow == pytest.approx(1.96 / math.sqrt(5000), rel=0.2)


def test_intervals_follow_from_the_seed() -> None:
    ranks = ranked(*range(1, 31))
    assert score_ranks(ranks, 30, seed=1) == score_ranks(ranks, 30, seed=1)
    assert score_ranks(ranks, 30, seed=1).mrr.low != score_ranks(ranks, 30, seed=2).mrr.low


def test_an_estimate_is_readable() -> None:
    assert str(Estimate(0.5123, 0.4801, 0.5409)) == "0.512 [0.480, 0.541]"


# --- ranks ----------------------------------------------------------------------------------------------------------


def brute_force(
    queries: NDArray[np.float32], documents: NDArray[np.float32], relevant: list[list[int]], k: int
) -> float:
    """Mean nDCG@k from a sorted list of documents for each query, in float64."""
    figures = []
    for query, wanted in zip(queries.astype(float), relevant, strict=True):
        cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in documents.astype(float)]
        order = sorted(range(len(documents)), key=lambda index: -cosines[index])
        gain = sum(1 / math.log2(place + 2) for place, index in enumerate(order[:k]) if index in wanted)
        figures.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted)))))
    return float(np.mean(figures))


@pytest.mark.parametrize("blocks", [(512, 8192), (7, 13)])
def test_figures_equal_those_of_brute_force(blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERY_BLOCK", blocks[0])
    monkeypatch.setattr(retrieval, "DOCUMENT_BLOCK", blocks[1])
    rng = np.random.default_rng(1)
    queries, documents = rows(40, seed=1), rows(90, seed=2)
    relevant = [rng.choice(90, size=int(rng.integers(1, 5)), replace=False).tolist() for _ in queries]
    result = evaluate_retrieval(queries, documents, relevant, ks=(3, 10, 50))
    for k in (3, 10, 50):
        assert result.ndcg[k].value == pytest.approx(brute_force(queries, documents, relevant, k))
    assert result.ndcg[50].value > 0.1


def test_random_embeddings_are_at_chance() -> None:
    count = 2000
    result = evaluate_retrieval(rows(count, seed=3), rows(count, seed=4), range(count))
    for k in (1, 5, 10):
        assert result.recall[k].low <= k / count <= result.recall[k].high + 1e-3
    chance = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / count
    assert result.ndcg[10].value == pytest.approx(chance, abs=2e-3)
    assert result.mrr.value == pytest.approx(sum(1 / rank for rank in range(1, count + 1)) / count, rel=0.5)


@pytest.mark.parametrize("dimension", [1, 64, 999])
@pytest.mark.parametrize("count", [9, 777])
def test_a_constant_embedding_finds_nothing(dimension: int, count: int) -> None:
    """Equal rows must not win by how their products are rounded, which depends on their place in the matrix."""
    constant = np.repeat(rows(1, dimension, seed=5), count, axis=0)
    assert [each.item() for each in rank_relevant(constant, constant, range(count))] == [count] * count
    several = rank_relevant(constant, constant, [[0, 1, 2]] * count)
    assert {tuple(each.tolist()) for each in several} == {(count - 2, count - 1, count)}


def test_rounding_breaks_no_ties() -> None:
    """Rows of one direction and different lengths are equal but for how they are rounded."""
    lengths = np.random.default_rng(0).uniform(0.1, 10, (300, 1)).astype(np.float32)
    same = rows(1, 99, seed=5) * lengths
    assert [each.item() for each in rank_relevant(same, same, range(300))] == [300] * 300


def test_duplicates_come_before_what_is_relevant() -> None:
    documents = np.concatenate([rows(50), rows(50), rows(50)])
    assert [each.item() for each in rank_relevant(rows(50), documents, range(50))] == [3] * 50
    assert [each.tolist() for each in rank_relevant(rows(50), documents, [[i, 50 + i] for i in range(50)])] == [
        [2, 3]
    ] * 50


def test_rows_of_zeros_find_nothing() -> None:
    assert rank_relevant(np.zeros((1, 4)), rows(20, 4), [3])[0].tolist() == [20]


def test_length_does_not_count_unless_asked() -> None:
    queries, documents = rows(30), rows(30, seed=6)
    scaled = documents * np.linspace(0.1, 9, 30)[:, None].astype(np.float32)
    plain, stretched = rank_relevant(queries, documents, range(30)), rank_relevant(queries, scaled, range(30))
    assert np.concatenate(plain).tolist() == np.concatenate(stretched).tolist()
    dots = rank_relevant(queries, scaled, range(30), similarity=lambda left, right: left @ right.T)
    products = queries @ scaled.T
    expected = [int((products[i] >= products[i, i]).sum()) for i in range(30)]
    assert np.concatenate(dots).tolist() == expected != np.concatenate(plain).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_and_arrays_of_any_precision(dtype: torch.dtype) -> None:
    queries = torch.from_numpy(rows(20)).to(dtype).requires_grad_()
    documents = torch.cat([queries.detach(), torch.from_numpy(rows(20, seed=7)).to(dtype)])
    assert evaluate_retrieval(queries, documents, np.arange(20)).recall[1].value == 1
    assert evaluate_retrieval(queries.detach().float().numpy(), documents, range(20)).recall[1].value == 1


def test_documents_may_be_a_read_only_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "documents.npy", rows(100).astype(np.float16))
    documents = np.load(tmp_path / "documents.npy", mmap_mode="r")
    assert evaluate_retrieval(rows(100), documents, range(100)).recall[1].value == 1


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_named(value: float) -> None:
    bad = rows(30)
    bad[[4, 17], 3] = value
    with pytest.raises(ValueError, match="documents hold NaN or infinite values in rows 4, 17; encode these again"):
        evaluate_retrieval(rows(30), bad, range(30))
    with pytest.raises(ValueError, match=r"queries hold NaN .* rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more"):
        evaluate_retrieval(np.full((30, 4), value), rows(30, 4), range(30))


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([0, 1], "there are 3 queries, and relevant documents for 2"),
        ([0, [], 1], "query 1 has no relevant document"),
        ([0, 1, [2, 5]], r"query 2 has the relevant documents \[2, 5\]; expected indices below 5"),
        ([-1, 1, 2], r"query 0 has the relevant documents \[-1\]"),
        ([0, [0.5], 2], r"query 1 has the relevant documents \[0.5\]"),
    ],
)
def test_wrong_relevant_documents_are_named(relevant: list[int | list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(rows(3), rows(5), relevant)


def test_other_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="queries are a list; expected an array or a tensor"):
        evaluate_retrieval(rows(3).tolist(), rows(3), range(3))
    with pytest.raises(ValueError, match=r"documents have the shape \(16,\)"):
        evaluate_retrieval(rows(3), rows(3)[0], range(3))
    with pytest.raises(ValueError, match=r"queries have the shape \(0, 16\)"):
        evaluate_retrieval(rows(0), rows(3), [])
    with pytest.raises(ValueError, match="queries have 16 dimensions and documents 8"):
        evaluate_retrieval(rows(3), rows(3, 8), range(3))
    with pytest.raises(ValueError, match=r"cutoffs of 1 or more, got \[0\]"):
        evaluate_retrieval(rows(3), rows(3), range(3), ks=(0,))
    with pytest.raises(ValueError, match="got bootstrap=0"):
        evaluate_retrieval(rows(3), rows(3), range(3), bootstrap=0)
    with pytest.raises(ValueError, match="there are no queries"):
        score_ranks([], 3)
    with pytest.raises(ValueError, match="returned NaN or infinite scores"):
        evaluate_retrieval(rows(3), rows(3), range(3), similarity=lambda left, right: left @ right.T * math.nan)
    with pytest.raises(ValueError, match=r"returned the shape \(3, 1\); expected \(3, 3\)"):
        evaluate_retrieval(rows(3), rows(3), range(3), similarity=lambda left, right: left @ right[:1].T)
