"""Retrieval on one's own pairs: any-to-any rows in, figures of every pair of modalities in both directions out.

    result = evaluate_pairs(model, "pairs.jsonl")
    result.directions["text -> image"].ndcg[10]     # 0.512 [0.480, 0.541]

The rows are those of training (`lco_embedding.data.sides`): an `anchor` and a `positive` that belong together;
negatives are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lco_embedding.data.json_lines import JsonLines, RowError
from lco_embedding.data.sides import input_of, parse_side
from lco_embedding.evaluation.retrieval import Retrieval, evaluate_retrieval
from lco_embedding.model import LCOEmbedding
from lco_embedding.modules.inputs import Problem

KS = (1, 5, 10)


@dataclass(frozen=True)
class PairRetrieval:
    """What was found in the pairs of a file.

    Args:
        rows: Rows of the file.
        errors: The rows that were left out, each named by file and line, with the reason.
        directions: The retrieval of each direction, such as "text -> image". Where both sides are of one modality,
            "text -> text" searches positives by anchors and "text <- text" anchors by positives.
    """

    rows: int
    errors: Sequence[str]
    directions: Mapping[str, Retrieval]

    def figures(self) -> dict[str, float]:
        """Return the figures without their intervals, by names such as "text -> image: ndcg@10"."""
        return {
            f"{direction}: {name}": value
            for direction, result in self.directions.items()
            for name, value in result.figures().items()
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the bounds of the figures by the same names."""
        found: dict[str, tuple[float, float]] = {}
        for direction, result in self.directions.items():
            estimates = {f"recall@{k}": each for k, each in result.recall.items()}
            estimates |= {f"ndcg@{k}": each for k, each in result.ndcg.items()} | {"mrr": result.mrr}
            found |= {f"{direction}: {name}": (each.low, each.high) for name, each in estimates.items()}
        return found


@dataclass
class Sides:
    """The distinct sides of some rows: an input that stands in several is embedded once, and is one document."""

    def __post_init__(self) -> None:
        self.inputs: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def place(self, side: Mapping[str, str]) -> int:
        """Return the place of a side among the inputs, where it is put if it is new.

        Files of the same content are the same, whatever their names.
        """
        key = tuple(value if name == "text" else _content_of(value) for name, value in side.items())
        if key not in self._places:
            self._places[key] = len(self.inputs)
            self.inputs.append(input_of(side))
        return self._places[key]


def evaluate_pairs(
    model: LCOEmbedding,
    path: str | Path,
    bootstrap: int = 1000,
    seed: int = 0,
    **encode_options: Any,
) -> PairRetrieval:
    """Search each side of the pairs of a file by the other.

    Rows are grouped by the modalities of their sides, whichever of the two is the anchor. Within a group each distinct
    side is one query and one document, with as many relevant ones as it has partners.

    Args:
        model: The model.
        path: A JSON-lines file.
        bootstrap: How often the queries are resampled for the intervals.
        seed: Seed of the resampling.
        **encode_options: As in `LCOEmbedding.encode`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no rows, or none that can be evaluated.
    """
    rows = JsonLines(path)
    sides = Sides()
    errors: dict[int, str] = {}
    pairs: dict[int, tuple[int, int]] = {}
    for index in range(len(rows)):
        try:
            anchor, positive = _pair(rows, index)
        except RowError as error:
            errors[index] = str(error)
        else:
            pairs[index] = sides.place(anchor), sides.place(positive)
    embeddings, kinds, problems = _embed(model, sides.inputs, encode_options)
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for index, (anchor_at, positive_at) in pairs.items():
        bad = [(name, at) for name, at in (("anchor", anchor_at), ("positive", positive_at)) if at in problems]
        if bad:
            reasons = [f"{name}, {problems[at].source}: {problems[at].reason}" for name, at in bad]
            errors[index] = f"{rows.name(index)}: {'; '.join(reasons)}"
            continue
        key = kinds[anchor_at], kinds[positive_at]
        if key[::-1] in groups and key[0] != key[1]:
            groups[key[::-1]].append((positive_at, anchor_at))
        else:
            groups.setdefault(key, []).append((anchor_at, positive_at))
    listed = [errors[index] for index in sorted(errors)]
    if not groups:
        raise ValueError("no row can be evaluated:\n" + "\n".join(f"- {line}" for line in listed[:20]))
    directions = {}
    for (left, right), group in groups.items():
        back = [(second, first) for first, second in group]
        for name, each in ((f"{left} -> {right}", group), (_reversed(left, right), back)):
            directions[name] = _search(model, embeddings, each, bootstrap, seed)
    return PairRetrieval(len(rows), listed, directions)


def _pair(rows: JsonLines, index: int) -> tuple[dict[str, str], dict[str, str]]:
    row, name = rows[index], rows.name(index)
    if not isinstance(row, dict) or not {"anchor", "positive"} <= row.keys():
        raise RowError(f"{name}: a row needs an 'anchor' and a 'positive'")
    return parse_side(row["anchor"], f"{name}: anchor"), parse_side(row["positive"], f"{name}: positive")


def _embed(
    model: LCOEmbedding, inputs: Sequence[Any], options: Mapping[str, Any]
) -> tuple[NDArray[np.float32], dict[int, str], dict[int, Problem]]:
    """Embed inputs.

    Returns:
        The embeddings, of shape (inputs, dimension), the kinds of the inputs, and the problems of those that have none.
    """
    items, problems = model.omni.parse(inputs)
    embeddings = np.full((len(inputs), model.truncate_dim or model.get_embedding_dimension()), np.nan, np.float32)
    if items:
        embeddings[[item.index for item in items]] = model.encode(items, on_error=problems.append, **options)
    kinds = {item.index: "+".join(dict.fromkeys(block.kind for block in item.blocks)) for item in items}
    return embeddings, kinds, {problem.index: problem for problem in problems}


def _search(
    model: LCOEmbedding,
    embeddings: NDArray[np.float32],
    pairs: Sequence[tuple[int, int]],
    bootstrap: int,
    seed: int,
) -> Retrieval:
    """Search the second sides of pairs by the first ones."""
    documents = {side: number for number, side in enumerate(dict.fromkeys(second for _, second in pairs))}
    relevant: dict[int, set[int]] = {}
    for first, second in pairs:
        relevant.setdefault(first, set()).add(documents[second])
    found = list(relevant.values())
    queries, searched = embeddings[list(relevant)], embeddings[list(documents)]
    return evaluate_retrieval(queries, searched, found, KS, bootstrap, seed, similarity=model.similarity)


def _reversed(left: str, right: str) -> str:
    return f"{left} <- {right}" if left == right else f"{right} -> {left}"


def _content_of(path: str) -> str:
    """Return a hash of a file, or the value itself where there is no such file."""
    if not path or path.startswith("data:") or not Path(path).is_file():
        return path
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
