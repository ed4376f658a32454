"""The `lco-embedding` command: thin over the package, one arguments dataclass for each subcommand.

Nothing heavy is imported before the arguments are understood, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lco_embedding._version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lco_embedding.embedding import LCOEmbedding

TEXT_EXTENSIONS = (".txt", ".md")
ROW_EXTENSIONS = (".jsonl",)

DESCRIPTION = """\
Embed text, images, audio, video and mixtures of them in one space.

  lco-embedding encode photos/ sounds/ notes.txt pairs.jsonl --output embeddings.parquet
  lco-embedding similarity "a red circle" photos/circle.png sounds/bell.wav
  lco-embedding train text_only --model Qwen/Qwen2.5-Omni-3B --data nli.jsonl --output_dir lco-3b
"""

TRAINING_COMMANDS = {
    "pretrain": ("lco_embedding.training.generative", "Train a model to answer about media (stage 1)."),
    "train": ("lco_embedding.training.contrastive", "Train a model to embed (stage 2)."),
}
"""Commands whose modules parse their own arguments, those of the trainers among them, and what they do."""


def _option(help: str, default: Any = MISSING, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class ModelArguments:
    """Which model, and where it runs."""

    model: str = _option(
        "folder or Hub id of the model; 'miniature' is the small one that ships in the package", "miniature"
    )
    revision: str | None = _option("revision of a Hub model: branch, tag or commit", None)
    device: str | None = _option("device such as cpu, cuda or mps; the best one by default", None)
    dtype: str | None = _option(
        "dtype of the weights; that of the checkpoint by default", None, choices=("float32", "bfloat16", "float16")
    )
    batch_size: int = _option("inputs in a batch, at most", 32)
    load_audio_from_video: bool = _option("hear the sound track of videos together with their frames", False)


@dataclass(frozen=True)
class EncodeArguments(ModelArguments):
    """Embed files and write the embeddings to a table.

    Each image, sound and video file is one row, and so is each text file (.txt, .md) as a whole. Folders are walked;
    what is neither is passed over and counted. Each line of a JSON-lines file (.jsonl) is one row: a string, chat
    messages, or an object with some of "text", "image", "audio" and "video" (paths are relative to the file) and
    optionally an "id" by which the row is named. What can't be embedded becomes a row with its error; the exit status
    is then 1.
    """

    paths: tuple[str, ...] = _option("files and folders", (), positional=True)
    output: str = _option(
        "where to write: .parquet, or .npz; columns path, modality, embedding, error", "embeddings.parquet"
    )


@dataclass(frozen=True)
class SimilarityArguments(ModelArguments):
    """Print how similar inputs are to each other: cosines, from -1 to 1.

    An input is the path of a media file, or else a text.
    """

    inputs: tuple[str, ...] = _option("two or more texts and paths", (), positional=True)


@dataclass(frozen=True)
class WorldArguments:
    """Write the miniature's world to a folder: real files, an any-to-any index and chats, to train and test on.

    index.jsonl is for `lco-embedding train`, chat.jsonl for `lco-embedding pretrain`.
    """

    folder: tuple[str, ...] = _option("where to write", (), positional=True)
    split: str = _option("which scenes to write", "train", choices=("train", "dev", "test"))
    images: int = _option("how many images", 200)
    sounds: int = _option("how many sounds", 200)
    clips: int = _option("how many clips", 200)
    documents: int = _option("how many documents", 100)
    seed: int = _option("seed of the scenes, their renderings and texts", 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: The arguments; those of the process unless given.
    """
    parser = argparse.ArgumentParser(
        prog="lco-embedding", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_command(commands, "encode", EncodeArguments, encode)
    _add_command(commands, "similarity", SimilarityArguments, similarity)
    _add_command(commands, "world", WorldArguments, world)
    for name, (_, text) in TRAINING_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in TRAINING_COMMANDS:
            return int(import_module(TRAINING_COMMANDS[words[0]][0]).main(words[1:]))
        namespace = vars(parser.parse_args(words))
        namespace.pop("command")
        run, arguments = namespace.pop("run"), namespace.pop("arguments")
        return int(run(arguments(**{key: tuple(v) if isinstance(v, list) else v for key, v in namespace.items()})))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"lco-embedding: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lco-embedding: interrupted", file=sys.stderr)
        return 130


def _add_command(commands: Any, name: str, arguments: type, run: Callable[[Any], int]) -> None:
    doc = arguments.__doc__ or ""
    command = commands.add_parser(
        name,
        help=doc.splitlines()[0],
        description=doc.replace("\n    ", "\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for entry in fields(arguments):
        _add_argument(command, entry)
    command.set_defaults(run=run, arguments=arguments)


def _add_argument(command: argparse.ArgumentParser, entry: Field[Any]) -> None:
    text = entry.metadata["help"]
    if entry.metadata.get("positional"):
        command.add_argument(entry.name, nargs="+", metavar=entry.name.upper(), help=text)
        return
    flag = "--" + entry.name.replace("_", "-")
    if isinstance(entry.default, bool):
        command.add_argument(flag, action="store_true", help=text)
        return
    shown = "" if entry.default is None else f" (default: {entry.default})"
    command.add_argument(
        flag,
        type=type(entry.default) if entry.default is not None else str,
        default=entry.default,
        choices=entry.metadata.get("choices"),
        help=text + shown,
    )


def _load(arguments: ModelArguments) -> LCOEmbedding:
    from lco_embedding.embedding import LCOEmbedding

    kwargs: dict[str, Any] = {"device": arguments.device, "revision": arguments.revision}
    if arguments.dtype:
        kwargs["model_kwargs"] = {"dtype": arguments.dtype}
    if arguments.model == "miniature":
        return LCOEmbedding.miniature(**kwargs)
    return LCOEmbedding(arguments.model, **kwargs)


def _encode_options(arguments: ModelArguments) -> dict[str, Any]:
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    options: dict[str, Any] = {"batch_size": arguments.batch_size, "show_progress_bar": False}
    if arguments.load_audio_from_video:
        options["load_audio_from_video"] = True
    return options


# --- encode ---------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One row of the output: the name and the value of an input, or why it has none."""

    path: str
    value: Any = None
    modality: str = ""
    error: str = ""


def encode(arguments: EncodeArguments) -> int:
    """Embed what the paths hold, and write it.

    Returns:
        0, or 1 if some rows have errors.
    """
    output = Path(arguments.output)
    if output.suffix not in (".parquet", ".npz"):
        raise ValueError(f"--output must end in .parquet or .npz, got {arguments.output!r}")
    if output.suffix == ".parquet":
        _require_pyarrow()
    # What can't be written must not be found out after hours of embedding.
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"--output {output} can't be written")
    options = _encode_options(arguments)
    rows, passed_over = find_rows(arguments.paths)
    if not rows:
        raise ValueError(f"nothing to embed in {', '.join(arguments.paths)}")
    model = _load(arguments)
    from tqdm.auto import tqdm

    chunk = 4 * arguments.batch_size
    with tqdm(total=len(rows), unit="input", desc="Embedding") as progress:
        parts = []
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            parts.append(_embed(model, part, options))
            progress.update(len(part))
    write = _write_parquet if output.suffix == ".parquet" else _write_npz
    write(output, rows, parts)
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"{row.path}: {row.error}", file=sys.stderr)
    skipped = f", {passed_over} other file(s) passed over" if passed_over else ""
    print(f"{len(rows) - len(failed)} embedded, {len(failed)} failed{skipped}; written to {output}")
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
            rows.append(Row(name, error="there is no such file or folder"))
    return rows, passed_over


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _is_input(path: Path) -> bool:
    from lco_embedding.modules.media import kind_of_path

    return path.suffix.lower() in TEXT_EXTENSIONS + ROW_EXTENSIONS or kind_of_path(path.name) is not None


def _rows_of(path: Path) -> list[Row]:
    suffix = path.suffix.lower()
    if suffix not in TEXT_EXTENSIONS + ROW_EXTENSIONS:
        return [Row(str(path), value=path)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return [Row(str(path), error=f"the file is not UTF-8 text ({error})")]
    except OSError as error:
        return [Row(str(path), error=f"the file can't be read ({error.strerror})")]
    if suffix in TEXT_EXTENSIONS:
        return [Row(str(path), value={"text": text})]
    lines = enumerate(text.split("\n"), start=1)
    return [_row_of_line(path, number, line) for number, line in lines if line.strip()]


def _row_of_line(path: Path, number: int, line: str) -> Row:
    from lco_embedding.training.json_lines import resolve

    row = Row(f"{path}:{number}")
    try:
        value = json.loads(line)
    except ValueError as error:
        row.error = f"the line is not JSON ({error})"
        return row
    if isinstance(value, str):
        row.value = {"text": value}
    elif isinstance(value, dict):
        row.path = str(value.pop("id", row.path))
        given = resolve({key: entry for key, entry in value.items() if entry is not None}, path.parent)
        row.value = given.get("messages") or given
    else:
        row.error = f"the line is neither a string nor an object but {type(value).__name__}"
    return row


def _embed(model: LCOEmbedding, rows: list[Row], options: dict[str, Any]) -> NDArray[np.float32]:
    """Embed rows, note their modalities and errors, and return embeddings of shape (rows, dimension)."""
    import numpy as np

    items, problems = model.omni.sort([None if row.error else row.value for row in rows])
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


def _write_parquet(path: Path, rows: list[Row], parts: list[NDArray[np.float32]]) -> None:
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
    pyarrow.parquet.write_table(table, path)


def _write_npz(path: Path, rows: list[Row], parts: list[NDArray[np.float32]]) -> None:
    import numpy as np

    np.savez(
        path,
        path=np.array([row.path for row in rows], dtype=np.str_),
        modality=np.array([row.modality for row in rows], dtype=np.str_),
        embedding=np.concatenate(parts),
        error=np.array([row.error for row in rows], dtype=np.str_),
    )


# --- similarity -----------------------------------------------------------------------------------------------------


def similarity(arguments: SimilarityArguments) -> int:
    """Print the table of similarities.

    Returns:
        0.
    """
    if len(arguments.inputs) < 2:
        raise ValueError("similarity needs at least two inputs")
    options = _encode_options(arguments)
    model = _load(arguments)
    embeddings = model.encode(list(arguments.inputs), **options)
    scores = model.similarity(embeddings, embeddings)
    print(format_table(arguments.inputs, scores.tolist()))
    return 0


def format_table(names: Sequence[str], scores: Sequence[Sequence[float]]) -> str:
    """Lay out a square of scores with its names at the left and their numbers above."""
    shown = [name if len(name) <= 40 else name[:18] + "..." + name[-19:] for name in names]
    width = max(map(len, shown))
    digits = len(str(len(names)))
    lines = [" " * (digits + width + 4) + "".join(f"{number:>7}" for number in range(1, len(names) + 1))]
    for number, (name, row) in enumerate(zip(shown, scores, strict=True), start=1):
        lines.append(f"{number:>{digits}}  {name:<{width}}  " + "".join(f"{score:7.3f}" for score in row))
    return "\n".join(lines)


# --- world ----------------------------------------------------------------------------------------------------------


def world(arguments: WorldArguments) -> int:
    """Write the world.

    Returns:
        0.
    """
    from lco_embedding.miniature.world import Kind, write

    if len(arguments.folder) != 1:
        raise ValueError(f"expected one folder, got {len(arguments.folder)}")
    counts: dict[Kind, int] = {
        "image": arguments.images,
        "sound": arguments.sounds,
        "clip": arguments.clips,
        "document": arguments.documents,
    }
    folder = write(arguments.folder[0], arguments.split, counts, arguments.seed)  # type: ignore[arg-type]
    print(f"{sum(counts.values())} scenes of the {arguments.split} split written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
