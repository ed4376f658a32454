"""`lco-embedding encode`: files and rows in, a table of embeddings out."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lco_embedding.atomic_writes import atomic_file
from lco_embedding.cli.arguments import ModelArguments, option, parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lco_embedding.model import LCOEmbedding

TEXT_EXTENSIONS = (".txt", ".md")
ROW_EXTENSIONS = (".jsonl",)

CHUNK = 1024
"""Rows that are embedded between two steps of the progress bar: enough to put like with like."""


@dataclass(frozen=True)
class EncodeArguments(ModelArguments):
    """Embed files and write the embeddings to a table.

    Each image, sound and video file is one row, and so is each text file (.txt, .md) as a whole. Folders are walked;
    what is neither is passed over and counted. Each line of a JSON-lines file (.jsonl) is one row: a string, chat
    messages, or an object with some of "text", "image", "audio" and "video" (paths are relative to the file) and
    optionally an "id" by which the row is named. What can't be embedded becomes a row with its error; the exit status
    is then 1. A path that is not UTF-8 is written as its file URI, which keeps each byte: file:///corpus/caf%E9.png.
    """

    paths: tuple[str, ...] = option("files and folders", (), positional=True)
    output: str = option(
        "where to write: .parquet, or .npz; columns path, modality, embedding, error", "embeddings.parquet"
    )


@dataclass
class Row:
    """One row of the output: the name and the value of an input, or why it has none."""

    path: str
    value: Any = None
    modality: str = ""
    error: str = ""


def main(argv: Sequence[str]) -> int:
    """Embed what the paths hold, and write it.

    Returns:
        0, or 1 if some rows have errors.
    """
    arguments = parse(EncodeArguments, argv, "lco-embedding encode")
    output = Path(arguments.output)
    if output.suffix not in (".parquet", ".npz"):
        raise ValueError(f"--output must end in .parquet or .npz, got {arguments.output!r}")
    if output.suffix == ".parquet":
        _require_pyarrow()
    _require_writable(output)
    options = arguments.encode_options()
    rows, passed_over = find_rows(arguments.paths)
    if not rows:
        raise ValueError(f"nothing to embed in {', '.join(arguments.paths)}")
    model = arguments.load()
    from tqdm.auto import tqdm

    with tqdm(total=len(rows), unit="input", desc="Embedding") as progress:
        parts = []
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            parts.append(_embed(model, part, options))
            progress.update(len(part))
    _write(output, rows, parts)
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"{row.path}: {row.error}", file=sys.stderr)
    skipped = f", {passed_over} other file(s) passed over" if passed_over else ""
    print(f"{len(rows) - len(failed)} embedded, {len(failed)} failed{skipped}; written to {_name(output)}")
    return 1 if failed else 0


def find_rows(paths: Iterable[str]) -> tuple[list[Row], int]:
    """List the inputs that files, folders and JSON lines hold.

    Returns:
        The rows, in order, and how many files of folders were passed over.
    """
    rows: list[Row] = []
    passed_over = 0
    for name in paths:
        path = Path(name)
        if path.is_dir():
            for file in _walk(path):
                if _is_input(file):
                    rows += _rows_of(file)
                else:
                    passed_over += 1
        elif path.is_file():
            rows += _rows_of(path)
        else:
            rows.append(Row(_name(path), error="there is no such file or folder"))
    return rows, passed_over


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _is_input(path: Path) -> bool:
    from lco_embedding.modules.media import kind_of_file, kind_of_path

    if path.suffix.lower() in TEXT_EXTENSIONS + ROW_EXTENSIONS:
        return True
    return kind_of_path(path, rare=True) is not None and kind_of_file(path) is not None


def _rows_of(path: Path) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix not in TEXT_EXTENSIONS + ROW_EXTENSIONS:
        return [Row(_name(path), value=path)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return [Row(_name(path), error=f"the file is not UTF-8 text ({error})")]
    except OSError as error:
        return [Row(_name(path), error=f"the file can't be read ({error.strerror})")]
    if suffix in TEXT_EXTENSIONS:
        return [Row(_name(path), value={"text": text})]
    lines = enumerate(text.split("\n"), start=1)
    return [_row_of_line(path, number, line) for number, line in lines if line.strip()]


def _name(path: Path) -> str:
    """Return a path as a table can hold it: if it is not UTF-8, as its file URI (RFC 8089)."""
    name = str(path)
    return name if _is_unicode(name) else path.absolute().as_uri()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row_of_line(path: Path, number: int, line: str) -> Row:
    from lco_embedding.data.json_lines import resolve

    row = Row(f"{_name(path)}:{number}")
    try:
        value = json.loads(line)
    except ValueError as error:
        row.error = f"the line is not JSON ({error})"
        return row
    if isinstance(value, str):
        row.value = {"text": value}
    elif isinstance(value, dict):
        name = value.pop("id", None)
        row.path = row.path if name is None else str(name)
        given = resolve({key: entry for key, entry in value.items() if entry is not None}, path.parent)
        others = sorted(set(given) - {"messages"})
        row.value = given.get("messages", given)
        if "messages" in given and others:
            row.error = f"beside messages there can be an id, not {', '.join(others)}"
    elif isinstance(value, list):
        row.value = resolve({"messages": value}, path.parent)["messages"]
    else:
        row.error = f"the line is no string, chat or object but {type(value).__name__}"
    return row


def _embed(model: LCOEmbedding, rows: list[Row], options: dict[str, Any]) -> NDArray[np.float32]:
    """Embed rows, note their modalities and errors, and return embeddings of shape (rows, dimension)."""
    import numpy as np

    items, problems = model.omni.parse([None if row.error else row.value for row in rows])
    embeddings = np.full((len(rows), model.truncate_dim or model.get_embedding_dimension()), np.nan, dtype=np.float32)
    if items:
        embeddings[[item.index for item in items]] = model.encode(items, on_error=problems.append, **options)
    for item in items:
        rows[item.index].modality = "+".join(dict.fromkeys(block.kind for block in item.blocks))
    for problem in problems:
        rows[problem.index].error = rows[problem.index].error or problem.reason
    return embeddings


def _require_pyarrow() -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise ImportError("parquet needs pyarrow: pip install 'lco-embedding[parquet]', or write --output NAME.npz")


def _require_writable(output: Path) -> None:
    """Find out before hours of embedding what can't be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise ValueError(f"--output {output} can't be written ({error.strerror})") from error


def _write(output: Path, rows: list[Row], parts: list[NDArray[np.float32]]) -> None:
    """Write the table."""
    for row in rows:
        # An id or a reason may hold half a character, which no table can.
        row.path, row.error = (text.encode(errors="backslashreplace").decode() for text in (row.path, row.error))
    with atomic_file(output) as partial, partial.open("wb") as file:
        (_write_parquet if output.suffix == ".parquet" else _write_npz)(file, rows, parts)


def _write_parquet(file: IO[bytes], rows: list[Row], parts: list[NDArray[np.float32]]) -> None:
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    embeddings = np.concatenate(parts)
    has_error = np.array([bool(row.error) for row in rows])
    values = pyarrow.array(embeddings.reshape(-1))
    table = pyarrow.table(
        {
            "path": [row.path for row in rows],
            "modality": [row.modality or None for row in rows],
            "embedding": pyarrow.FixedSizeListArray.from_arrays(
                values, embeddings.shape[1], mask=pyarrow.array(has_error)
            ),
            "error": [row.error or None for row in rows],
        },
        schema=pyarrow.schema(
            {
                "path": pyarrow.string(),
                "modality": pyarrow.string(),
                "embedding": pyarrow.list_(pyarrow.float32(), embeddings.shape[1]),
                "error": pyarrow.string(),
            }
        ),
    )
    pyarrow.parquet.write_table(table, file)


def _write_npz(file: IO[bytes], rows: list[Row], parts: list[NDArray[np.float32]]) -> None:
    import numpy as np

    np.savez(
        file,
        path=np.array([row.path for row in rows], dtype=np.str_),
        modality=np.array([row.modality for row in rows], dtype=np.str_),
        embedding=np.concatenate(parts),
        error=np.array([row.error for row in rows], dtype=np.str_),
    )
