"""Hard negatives for any-to-any rows: what a model takes for near to an anchor, but is none of its positives.

    mine_file(LCOEmbedding("lco-3b"), "pairs.jsonl", "triplets.jsonl", corpus="pages.jsonl", num_negatives=4)

The miner of Sentence Transformers does the mining. It takes strings alone, so it is given the names of sides, and in
place of the model an index that knows their embeddings.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from sentence_transformers import util
from torch import Tensor
from torch.nn.functional import normalize

from lco_embedding.atomic_writes import atomic_file
from lco_embedding.data.datasets import open_data
from lco_embedding.data.json_lines import JsonLines
from lco_embedding.data.sides import SIDE, input_of

Side = dict[str, str]
Row = dict[str, Any]

SCORES_AT_ONCE = 2**27
"""Scores that the search holds at a time; they take 512 MB."""


class Encoder(Protocol):
    """What embeds: an `LCOEmbedding`, or a `SentenceTransformer` that takes the modalities of the data."""

    @property
    def device(self) -> torch.device:
        """Where the search runs."""

    def encode(self, inputs: Any, /, **kwargs: Any) -> Any:
        """Return embeddings of shape (inputs, dimension)."""


@dataclass(frozen=True)
class Mined:
    """What mining a file gave.

    Args:
        rows: Rows that were read.
        written: Rows that were written.
        without: Rows that were read of which nothing was written, as too few negatives were found for them.
    """

    rows: int
    written: int
    without: int


def mine_file(
    model: Encoder,
    data: str | Path,
    output: str | Path,
    corpus: str | Path | None = None,
    *,
    output_format: Literal["triplet", "n-tuple"] = "triplet",
    num_negatives: int = 1,
    **options: Any,
) -> Mined:
    """Write the rows of a data set with hard negatives in place of those that they have.

    Args:
        model: What embeds.
        data: JSON lines of `{"anchor": side, "positive": side}`, or what else of such columns `open_data` takes.
        output: JSON-lines file to write. The paths of media in it are relative to it.
        corpus: JSON lines of sides or texts among which negatives are found too, beside those of the data.
        output_format: "triplet" writes a row for each negative that is found; "n-tuple" one row with the columns
            `negative_1`, `negative_2`, ..., if all are found.
        num_negatives: Negatives for each row.
        **options: As in `mine`.

    Returns:
        How many rows there are, and how many are without negatives.

    Raises:
        FileExistsError: The output is there.
        ValueError: The format is not known; and as in `mine` and `open_data`.
    """
    if output_format not in ("triplet", "n-tuple"):
        raise ValueError(f"output_format must be 'triplet' or 'n-tuple', got {output_format!r}")
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} is there; choose another file or remove it")
    rows = list(open_data(str(data)))
    mined = mine_hard_negatives(
        model, rows, _read_all(corpus) if corpus else (), num_negatives=num_negatives, **options
    )
    written = without = 0
    with atomic_file(output) as partial, partial.open("w", encoding="utf8") as file:
        for row, negatives in zip(rows, mined, strict=True):
            lines = _lines(row, negatives, num_negatives, output_format)
            for line in lines:
                sides = {name: _relative(side, output.parent) for name, side in line.items()}
                file.write(f"{json.dumps(sides, ensure_ascii=False)}\n")
            written += len(lines)
            without += not lines
    return Mined(len(rows), written, without)


def mine_hard_negatives(
    model: Encoder,
    rows: Sequence[Mapping[str, Any]],
    corpus: Iterable[Any] = (),
    *,
    num_negatives: int = 1,
    range_min: int = 0,
    range_max: int | None = None,
    relative_margin: float | None = 0.05,
    sampling_strategy: Literal["top", "random"] = "top",
    seed: int = 0,
    **encode_kwargs: Any,
) -> list[list[Side]]:
    """Find hard negatives for rows: the nearest by cosine that are probably no positives.

    Candidates are the positives and negatives of all rows, and the corpus. Of these, an anchor itself and all that the
    rows give as its positives are never its negatives.

    Args:
        model: What embeds; each distinct side once.
        rows: Rows with an `anchor`, a `positive` and perhaps negatives; each a text, or an object of `SIDE` keys.
        corpus: Further sides.
        num_negatives: Negatives for each row, at most.
        range_min: How many of the nearest candidates are passed over, of those that the margin leaves.
        range_max: How many of the nearest are looked at; by default as many as `range_min`, the positives, and 10 for
            each negative (1 without a margin).
        relative_margin: A candidate is left out as a likely false negative if its similarity to the anchor is greater
            than that of the positive less this share of it: with 0.05, greater than 95% of it, as in LCO-Emb
            (arXiv 2510.11693). Of several positives of an anchor the farthest counts. None leaves out none.
        sampling_strategy: Whether to take the nearest of the candidates, or any of them.
        seed: Seed of the choice.
        **encode_kwargs: As `encode` of the model takes them: `batch_size`, `show_progress_bar`, `prompt`, ...

    Returns:
        For each row its negatives, the nearest first; fewer than `num_negatives`, or none, where the candidates end.

    Raises:
        TypeError: A side is neither a text nor an object of `SIDE` keys.
        ValueError: There are no rows, a side is empty, an embedding is not finite, or the numbers don't fit together.
    """
    from datasets import Dataset

    if not rows:
        raise ValueError("there are no rows to find negatives for")
    if sampling_strategy not in ("top", "random"):
        raise ValueError(f"sampling_strategy must be 'top' or 'random', got {sampling_strategy!r}")
    pairs = [
        (_name(row["anchor"], f"the anchor of row {number}"), _name(row["positive"], f"the positive of row {number}"))
        for number, row in enumerate(rows)
    ]
    given = [
        _name(side, f"the {column} of row {number}")
        for number, row in enumerate(rows)
        for column, side in row.items()
        if column.startswith("negative") and input_of(side)
    ]
    further = [_name(side, f"side {number} of the corpus") for number, side in enumerate(corpus)]
    names = list(dict.fromkeys([*(positive for _, positive in pairs), *given, *further]))
    index = _Index(model, dict.fromkeys([*names, *(anchor for anchor, _ in pairs)]), encode_kwargs)
    # The miner leaves out the positives of an anchor, so it is told that an anchor is its own. As nothing is nearer,
    # that does not move the margin.
    candidates = set(names)
    itself = [(anchor, anchor) for anchor, _ in pairs if anchor in candidates]
    found: dict[tuple[str, str], list[Side]] = {pair: [] for pair in [*pairs, *itself]}
    anchors, positives = zip(*found, strict=True)
    with _seeded(seed):
        triplets = util.mine_hard_negatives(
            Dataset.from_dict({"anchor": anchors, "positive": positives}),
            index,
            corpus=names,
            num_negatives=num_negatives,
            range_min=range_min,
            range_max=range_max,
            relative_margin=relative_margin,
            sampling_strategy=sampling_strategy,
            faiss_batch_size=max(1, SCORES_AT_ONCE // len(names)),
            verbose=False,
        )
    for triplet in triplets:
        found[triplet["anchor"], triplet["positive"]].append(json.loads(triplet["negative"]))
    return [found[pair] for pair in pairs]


class _Index:
    """Stands in for the model in the miner of Sentence Transformers: it looks the embeddings of names up.

    Args:
        model: What embeds.
        names: Of all sides, each once.
        encode_kwargs: For `encode`.

    Raises:
        ValueError: An embedding is not finite; when they are first asked for.
    """

    def __init__(self, model: Encoder, names: Iterable[str], encode_kwargs: Mapping[str, Any]) -> None:
        self.device = model.device
        self.rows = {name: row for row, name in enumerate(names)}
        self.model = model
        self.encode_kwargs = encode_kwargs

    @cached_property
    def embeddings(self) -> Tensor:
        """Embeddings of shape (names, dimension), computed when the miner has checked its arguments."""
        inputs = [input_of(json.loads(name)) for name in self.rows]
        encoded = self.model.encode(inputs, **self.encode_kwargs)
        embeddings = torch.as_tensor(encoded, dtype=torch.float32, device=self.device)
        broken = [*map(inputs.__getitem__, (~embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist())]
        if broken:
            raise ValueError(f"{len(broken)} embedding(s) are not finite, the first of {broken[0]}")
        return normalize(embeddings, dim=1)

    def encode_query(self, inputs: Sequence[str], **_: Any) -> Tensor:
        """Return the embeddings of names, of shape (names, dimension)."""
        return self.embeddings[[self.rows[name] for name in inputs]]

    encode_document = encode_query

    def similarity(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Return the cosines of shape (queries, documents)."""
        return queries @ documents.T

    def similarity_pairwise(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Return the cosine of each pair."""
        return (queries * documents).sum(dim=1)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's random numbers, from which the miner draws, and put them back."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _name(side: Any, where: str = "a side") -> str:
    """Return the name of a side: its content as JSON, with absolute paths, so that equal sides have equal names."""
    side = {"text": side} if isinstance(side, str) else side
    if not isinstance(side, Mapping) or not side.keys() <= set(SIDE):
        raise TypeError(f"{where} must be a text or an object of {', '.join(SIDE)}, got {side!r}")
    kept = {key: side[key] for key in SIDE if side.get(key)}
    if not kept:
        raise ValueError(f"{where} is empty; fill or drop it")
    return json.dumps({key: os.path.abspath(value) if _is_file(key, value) else value for key, value in kept.items()})


def _relative(side: Any, folder: Path) -> Side:
    """Return a side with all its keys, "" for what is absent, and its paths relative to a folder."""
    side = dict.fromkeys(("text", "image_path", "audio_path", "video_path"), "") | json.loads(_name(side))
    return {key: os.path.relpath(value, folder) if _is_file(key, value) else value for key, value in side.items()}


def _is_file(key: str, value: str) -> bool:
    return key != "text" and bool(value) and not value.startswith("data:") and "://" not in value


def _read_all(path: str | Path) -> list[Any]:
    lines = JsonLines(path)
    return [lines[index] for index in range(len(lines))]


def _lines(row: Mapping[str, Any], negatives: Sequence[Side], count: int, output_format: str) -> list[Row]:
    pair = {"anchor": row["anchor"], "positive": row["positive"]}
    if output_format == "triplet":
        return [pair | {"negative": negative} for negative in negatives]
    if len(negatives) < count:
        return []
    return [pair | {f"negative_{number}": negative for number, negative in enumerate(negatives, start=1)}]
