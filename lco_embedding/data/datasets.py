"""Any-to-any rows as data sets for contrastive training; `lco_embedding.data.sides` has the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lco_embedding.data.json_lines import MEDIA_KEYS, JsonLines, RowError, names_of, resolve
from lco_embedding.data.mixture import rows_of_epoch
from lco_embedding.data.sides import SIDE, input_of, is_column_of_sides, parse_side

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset

    from lco_embedding.modules import OmniTransformer

CHECKED_AT_ONCE = 1024

ENDINGS = (".jsonl", ".parquet", ".json", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zip", ".zst")
"""Endings of files, which are never the name of a data set of the Hub."""


def open_data(path: str, streaming: bool = False) -> Dataset | IterableDataset:
    """Open a data set.

    Args:
        path: A JSON-lines or parquet file, a folder that `Dataset.save_to_disk` wrote, or the name of a data set of
            the Hub, optionally with a split ("name:train") or a configuration and a split ("name:triplet:train").
        streaming: Read rows as they are needed.

    Returns:
        A data set whose columns hold sides, in the order anchor, positive, negatives where they are named so, and
        nothing else then. Media are not decoded yet, so that what can't be decoded is named when it is read; the
        paths of media in JSON lines and parquet are relative to the file.

    Raises:
        RowError: A row of a JSON-lines file is no object, or its columns are not those of the first row.
        FileNotFoundError: There is no such file.
        ValueError: The file is in another format, or the data set has several configurations and none is named.
    """
    import datasets

    if Path(path).suffix in ENDINGS:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}")
        if not path.endswith((".jsonl", ".parquet")):
            raise ValueError(f"{path} is neither JSON lines (.jsonl) nor parquet; write it as one of these")
    if path.endswith(".jsonl"):
        rows = JsonLines(path)
        features = datasets.Features(
            {name: dict.fromkeys(SIDE, datasets.Value("string")) for name in _columns(rows, 0)}
        )
        kind = datasets.IterableDataset if streaming else datasets.Dataset
        try:
            return kind.from_generator(partial(_sides, rows, tuple(features)), features=features)
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ if isinstance(error.__cause__, RowError) else error from None
    if path.endswith(".parquet"):
        dataset = datasets.load_dataset("parquet", data_files=path, split="train", streaming=streaming)
    elif Path(path).is_dir() and (Path(path) / "state.json").is_file():
        dataset = datasets.load_from_disk(path)
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        dataset = _load_named(path, streaming)
    if dataset.features is not None:
        dataset = dataset.cast(_undecoded(dataset.features))
    columns = dataset.column_names or []
    if {"anchor", "positive"} <= set(columns):
        negatives = sorted(name for name in columns if name.startswith("negative"))
        dataset = dataset.select_columns(["anchor", "positive", *negatives])
    if path.endswith(".parquet") and _has_paths(dataset.features):
        dataset = dataset.map(partial(resolve, folder=Path(path).parent), features=dataset.features)
    return dataset


def _load_named(path: str, streaming: bool) -> Dataset | IterableDataset:
    import datasets

    name, *rest = path.split(":")
    if len(rest) > 2:
        raise ValueError(f"{path}: expected NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT")
    configuration, split = rest if len(rest) == 2 else (None, *rest) if rest else (None, "train")
    try:
        return datasets.load_dataset(name, configuration, split=split or "train", streaming=streaming)
    except ValueError as error:
        if "Config name is missing" not in str(error):
            raise
        there = str(error).splitlines()[1].rpartition(": ")[2]
        raise ValueError(
            f"{name} has several configurations, {there}; name one, as {name}:CONFIGURATION:{split or 'train'}"
        ) from error


def _undecoded(features: Any) -> Any:
    """Return features whose media are left as bytes and paths."""
    import datasets

    if isinstance(features, datasets.Features):
        return datasets.Features({name: _undecoded(feature) for name, feature in features.items()})
    if isinstance(features, Mapping):
        return {name: _undecoded(feature) for name, feature in features.items()}
    if isinstance(features, list):
        return [_undecoded(feature) for feature in features]
    if isinstance(features, datasets.List | datasets.LargeList):
        return type(features)(_undecoded(features.feature))
    if isinstance(features, datasets.Image | datasets.Audio | datasets.Video):
        return replace(features, decode=False)
    return features


def _has_paths(features: Any) -> bool:
    """Tell whether columns hold objects with paths of media."""
    return any(
        isinstance(column, Mapping) and any(key in MEDIA_KEYS for key in column) for column in (features or {}).values()
    )


def _columns(rows: JsonLines, index: int) -> list[str]:
    row = rows[index]
    columns = sorted(filter(is_column_of_sides, row)) if isinstance(row, dict) else []
    if columns[:1] != ["anchor"] or "positive" not in columns:
        raise RowError(f"{rows.name(index)}: a row needs an 'anchor' and a 'positive'")
    return ["anchor", "positive", *(name for name in columns if name.startswith("negative"))]


def _sides(rows: JsonLines, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for index in range(len(rows)):
        found = _columns(rows, index)
        if tuple(found) != tuple(columns):
            raise RowError(
                f"{rows.name(index)} has {', '.join(found)}, the first row {', '.join(columns)}: all rows need the same"
            )
        row = rows[index]
        yield {name: parse_side(row[name], f"{rows.name(index)}: {name}") for name in columns}


def open_mixture(
    paths: Sequence[str], weights: Sequence[float] | None = None, seed: int = 0, streaming: bool = False
) -> Dataset | DatasetDict | IterableDataset:
    """Open several data sets for one run; a batch is of one of them, each drawn in proportion to its rows.

    Args:
        paths: As `open_data` takes them.
        weights: For each, how many times an epoch passes through it.
        seed: Seed of the choice where a weight is not whole.
        streaming: Read rows as they are needed; of one data set only.
    """
    import datasets

    weights = [1.0] * len(paths) if weights is None else weights
    if len(weights) != len(paths):
        raise ValueError(f"expected a weight for each of {len(paths)} data sets, got {len(weights)}")
    if streaming:
        if len(paths) != 1:
            raise ValueError(f"only one data set can be streamed, got {len(paths)}; put them into one file")
        return open_data(paths[0], streaming=True)
    opened = [open_data(path) for path in paths]
    opened = [
        dataset if weight == 1 else dataset.select(rows_of_epoch(len(dataset), weight, seed))
        for dataset, weight in zip(opened, weights, strict=True)
    ]
    if len(opened) == 1:
        return opened[0]
    return datasets.DatasetDict({f"{number}_{Path(path).stem}": opened[number] for number, path in enumerate(paths)})


def open_evaluation(paths: Sequence[str]) -> Dataset | DatasetDict:
    """Open data sets to evaluate on, each by the name under which its figures stand if there are several."""
    import datasets

    if len(paths) == 1:
        return open_data(paths[0])
    return datasets.DatasetDict(dict(zip(names_of(paths), map(open_data, paths), strict=True)))


def check(paths: Sequence[str], omni: OmniTransformer) -> None:
    """Check every row of some data sets: that its files are there, and are what they say.

    Raises:
        RowError: Some rows can't be trained on; it names each with its file and line.
    """
    found: list[str] = []
    for path in paths:
        rows = JsonLines(path) if path.endswith(".jsonl") else None
        dataset = open_data(path)
        for start in range(0, len(dataset), CHECKED_AT_ONCE):
            batch = dataset[start : start + CHECKED_AT_ONCE]
            for name, sides in batch.items():
                _, problems = omni.parse([input_of(side) for side in sides])
                for problem in problems:
                    index = start + problem.index
                    where = rows.name(index) if rows else f"{path}, row {index}"
                    found.append(f"{where}: {name}, {problem.source}: {problem.reason}")
    if found:
        listed = "\n".join(f"- {line}" for line in found[:50])
        more = f"\nand {len(found) - 50} more" if len(found) > 50 else ""
        raise RowError(f"{len(found)} input(s) of the data can't be trained on:\n{listed}{more}\nMend or drop them.")


def find_row(paths: Sequence[str], row: Mapping[str, Any]) -> str | None:
    """Return how errors name a row of some data sets: its file and line, or its number; None if it is in none.

    It is searched from the beginning, as rows do not carry where they are from.
    """
    for path in paths:
        rows = JsonLines(path) if path.endswith(".jsonl") else None
        for index, found in enumerate(open_data(path)):
            if all(name in row and row[name] == side for name, side in found.items()):
                return rows.name(index) if rows else f"{path}, row {index}"
    return None
