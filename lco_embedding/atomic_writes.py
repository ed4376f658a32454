"""Atomic writes: a result appears when it is complete, and until then the older one stays.

    with atomic_file("embeddings.npz") as partial:
        np.savez(partial, embedding=embeddings)

What is written lies beside its target under a hidden name until it is complete and on the disk. What a killed process
leaves under that name is overwritten by the next one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

PARTIAL = ".partial."
"""Prefix of the name of what is being written; hidden, so that nothing takes it for a result or publishes it."""

CONTENT = "content"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk or quota that is full, or a file that may not be so large."""

TORCH_WRITER = ("inline_container.cc", "PytorchStreamWriter", "iostream error")
"""Parts of the messages of a `torch.save` that can't write; it raises a plain RuntimeError."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file to, which then replaces the file.

    Args:
        path: The file; its folder is made if it is missing. Of a symbolic link, what it points to is replaced.

    Raises:
        OSError: The file can't be written; an older one is as it was.
    """
    target = _resolved(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(PARTIAL + target.name)
    with discarding(partial, target):
        yield partial
        _sync(partial)
        os.replace(partial, target)
        _sync_folder(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 by `atomic_file`."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf8")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write to, whose content then appears in a folder.

    A folder that is missing or empty appears by one rename. Into one with other content the files are moved one by one
    when all are complete; files of the same name are replaced, others stay.

    Args:
        path: The folder.

    Raises:
        OSError: The files can't be written; what was there before is as it was.
    """
    target = _resolved(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # What is mounted, or lies where nothing else may be written, can't be replaced.
    fixed = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
    inside = fixed or not is_free(target)
    room = target / (PARTIAL + CONTENT) if inside else target.with_name(PARTIAL + target.name)
    # Of the same name, which model cards show.
    partial = room / target.name
    _remove(room)
    with discarding(room, target):
        partial.mkdir(parents=True)
        yield partial
        sync_files(partial)
        if not inside:
            remove_leftovers(target)
            os.replace(partial, target)
        else:
            files = [path for path in partial.rglob("*") if path.is_file()]
            # Weights last: without them nothing loads a mixture of an older model and this one.
            for file in sorted(files, key=lambda path: (path.suffix == ".safetensors", path)):
                moved = target / file.relative_to(partial)
                moved.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, moved)
        _sync_folder(target)
        _sync_folder(target.parent)


def is_free(path: str | Path) -> bool:
    """Tell whether a folder can be written: it is missing or empty, but for what a killed process left there."""
    folder = Path(path)
    if not folder.is_dir():
        return not os.path.lexists(folder)
    return all(name.startswith(PARTIAL) for name in os.listdir(folder))


def require_free(path: str | Path) -> Path:
    """Return the path of a folder that is to be written.

    Raises:
        FileExistsError: It is no folder, or not empty.
    """
    if not is_free(path):
        raise FileExistsError(f"{path} is not empty; choose another folder or remove it")
    return Path(path)


def replace_folder(partial: Path, target: Path) -> None:
    """Put a complete folder in the place of another, by renaming; both are of one file system."""
    sync_files(partial)
    older = target.with_name(f"{PARTIAL}older.{target.name}")
    _remove(older)
    if target.exists():
        target.rename(older)
    partial.rename(target)
    _sync_folder(target.parent)
    _remove(older)


def remove_folder(folder: Path) -> None:
    """Remove a folder: it is hidden first, so that a kill on the way leaves no half of it."""
    hidden = folder.with_name(f"{PARTIAL}older.{folder.name}")
    _remove(hidden)
    folder.rename(hidden)
    _remove(hidden)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes left in a folder."""
    for path in Path(folder).glob(f"{PARTIAL}*"):
        _remove(path)


def sync_files(folder: Path) -> None:
    """Wait until all files of a folder are on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync_folder(Path(parent))


@contextmanager
def discarding(partial: Path, target: Path) -> Iterator[None]:
    """Remove what was to become a file or folder at the end of a block, where it is still there.

    Raises:
        OSError: It can't be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # The errors of safetensors and of `torch.save` are no OSErrors, and those of Python name no file.
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        if isinstance(error, RuntimeError) and not any(part in str(error) for part in TORCH_WRITER):
            raise
        raise OSError(f"{target} is not written; is the disk full? ({error})") from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _resolved(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Not every file system, nor every platform, has this for folders.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
