"""JSON-lines files as data sets: rows are found at once, parsed when they are asked for, and named by file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MEDIA_KEYS = ("image", "audio", "video", "path", "url", "image_path", "audio_path", "video_path")
"""Keys under which a row holds the path of a medium, relative to the file that the row is in."""


class RowError(ValueError):
    """A row of a data set that can't be used; the message names its file and line."""


class JsonLines:
    """The rows of a JSON-lines file: `len(rows)`, `rows[index]`.

    Only where each line begins is kept in memory. Paths of media in a row are relative to the file.

    Args:
        path: The file, in UTF-8; empty lines are passed over.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no rows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        starts, numbers, position = [], [], 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    starts.append(position)
                    numbers.append(number)
                position += len(line)
        if not starts:
            raise ValueError(f"{self.path} holds no rows")
        self._starts, self._numbers = np.array(starts), np.array(numbers)
        # Part of what tells one file from another, and from itself after a change, where rows are cached.
        status = self.path.stat()
        self.stamp = (str(self.path.resolve()), status.st_size, status.st_mtime_ns)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Any:
        """Return a parsed row, its media's paths resolved.

        Raises:
            RowError: The line is not JSON.
        """
        with self.path.open("rb") as file:
            file.seek(int(self._starts[index]))
            line = file.readline()
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise RowError(f"{self.name(index)}: the line is not JSON ({error})") from error
        return resolve(row, self.path.parent)

    def name(self, index: int) -> str:
        """Return the file and line of a row, as errors name it."""
        return f"{self.path}:{self._numbers[index]}"


def names_of(paths: Sequence[str]) -> list[str]:
    """Return names for the figures and reports of some files, of which no two are the same.

    They are the names of the files without their ending, with as many folders before them as tell them apart, or with
    their numbers where these are the same too.

    Raises:
        ValueError: A file is given twice.
    """
    files = [Path(path).resolve() for path in paths]
    if twice := [path for path, file in zip(paths, files, strict=True) if files.count(file) > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    for depth in range(max((len(file.parts) for file in files), default=1)):
        parts = [[*file.parent.parts[-depth:][:depth], file.stem] for file in files]
        names = [re.sub(r"[^\w.-]+", "_", "_".join(part)).strip("_") for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}_{name}" for number, name in enumerate(names, start=1)]


def resolve(value: Any, folder: Path, is_path: bool = False) -> Any:
    """Return a row with the paths of its media relative to `folder` made relative to the working folder.

    Args:
        value: A row, or a part of one.
        folder: Where the file of the row lies.
        is_path: Whether the value stands where a path does.
    """
    if isinstance(value, Mapping):
        return {key: resolve(entry, folder, key in MEDIA_KEYS) for key, entry in value.items()}
    if isinstance(value, list):
        return [resolve(entry, folder, is_path) for entry in value]
    if is_path and isinstance(value, str) and value and not value.startswith("data:") and "://" not in value:
        return str(folder / value)
    return value
