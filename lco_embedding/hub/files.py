"""The files of a checkpoint: which of them are published, and what must not be in them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from lco_embedding.checkpoints.downloads import PICKLES
from lco_embedding.checkpoints.info import ADAPTER_CONFIG, DTYPES, read_header

LEFT_OUT = ("checkpoint-*", "runs", "__pycache__", "wandb", "*.tmp")
"""What training leaves behind in its folder, which is no part of the checkpoint; nor is what is hidden."""

SHOWN = (".eval_results", ".gitattributes")
"""Hidden files and folders that are part of a checkpoint all the same."""

VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")
"""Files full of pieces of words, some of which look like paths."""

MAX_TEXT_BYTES = 200_000_000
"""The largest file that is searched as text."""

SECRETS = {
    "a token of the Hugging Face Hub": r"\b(hf|api_org)_[A-Za-z0-9]{16,}",
    "a token of GitHub": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a key of AWS": r"\bAKIA[A-Z0-9]{16}\b",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
    "an authorization header": r"(?i)\bauthorization\b\W{1,4}(bearer|basic)\s+[\w.=+/-]{8,}",
}
"""Patterns of secrets, by what they are."""

PATHS = (
    r"(?<![\w.:/~-])/(home|root|Users|mnt|tmp|var|private|data|scratch|workspace|work|srv|opt|nfs|lustre|gpfs|media)/[\w.~@-]+",
    r"(?<![\w.:/~-])/(content|kaggle|dev/shm|Volumes)/[\w.~@-]+",
    r"(?<![\w/])[A-Za-z]:\\[\w.~-]+\\",
    r"\bfile://",
)
"""Patterns of absolute paths: places on a machine."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a checkpoint.

    Args:
        check: Which check failed.
        message: What it found, and what can be done.
    """

    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.check}: {self.message}"


def published_files(folder: Path) -> list[str]:
    """List the files of a checkpoint, as paths within it, in order; without what is left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_part(name))
        found += [Path(parent, name).relative_to(folder).as_posix() for name in files if _is_part(name)]
    return sorted(found)


def _is_part(name: str) -> bool:
    if name.startswith("."):
        return name in SHOWN
    return not any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def stage(folder: Path, target: Path) -> None:
    """Put the files of a checkpoint into another folder, as links where these are possible."""
    for name in published_files(folder):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.symlink_to((folder / name).resolve())
        except OSError:
            shutil.copyfile(folder / name, place)


def check_files(folder: Path) -> Iterator[Finding]:
    """Check what files there are and what is in them, without loading anything."""
    names = published_files(folder)
    if not any(name.endswith(".safetensors") for name in names):
        yield Finding("weights", "there are no safetensors")
    for name in names:
        if name.endswith(PICKLES):
            yield Finding("safetensors", f"{name} is, or may hold, a pickle; only safetensors are published. Remove it")
        elif name.endswith(".py"):
            yield Finding("remote code", f"{name} is code; a plain checkpoint needs none. Remove it")
        elif not name.endswith(".safetensors"):
            yield from _check_text(folder, name)
    yield from _check_weights(folder)


def _check_text(folder: Path, name: str) -> Iterator[Finding]:
    if (folder / name).stat().st_size > MAX_TEXT_BYTES:
        return
    try:
        text = (folder / name).read_text(encoding="utf8")
    except UnicodeDecodeError:
        return
    token = get_token()
    if token and token in text:
        yield Finding("secrets", f"{name} holds the token that you are logged in with; remove it, and revoke the token")
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in SECRETS.items():
            if re.search(pattern, line):
                # The secret itself must not get into logs.
                yield Finding("secrets", f"{name}, line {number}, holds what looks like {what}; remove and revoke it")
        if Path(name).name not in VOCABULARIES:
            yield from _check_paths(name, number, line)


def _check_paths(name: str, number: int, line: str) -> Iterator[Finding]:
    # In JSON a backslash is written twice.
    for pattern in PATHS:
        if match := re.search(pattern, line.replace("\\\\", "\\")):
            yield Finding(
                "paths", f"{name}, line {number}, holds a path of this machine ({match[0]}...); write a name instead"
            )
            return


def _check_weights(folder: Path) -> Iterator[Finding]:
    """Check that every weight is where the index says, as large and of the dtype that is stated."""
    tensors: dict[str, dict[str, str]] = {}
    for name in published_files(folder):
        if not name.endswith(".safetensors"):
            continue
        path = folder / name
        try:
            header, size = read_header(path)
        except ValueError as error:
            yield Finding("weights", f"{name}: {error}")
            continue
        if path.stat().st_size != size:
            yield Finding(
                "weights", f"{name} has {path.stat().st_size:,} bytes, and must have {size:,}; is it cut off?"
            )
        tensors[name] = {key: tensor.dtype for key, tensor in header.items()}
        if any(not tensor.size for tensor in header.values()):
            yield Finding("weights", f"{name} holds an empty tensor")
    yield from _check_index(folder, tensors)
    config = _json(folder / "config.json")
    stated = config.get("dtype") or config.get("torch_dtype")
    if stated and (folder / ADAPTER_CONFIG).is_file() is False:
        main = {key: dtype for name, held in tensors.items() if "/" not in name for key, dtype in held.items()}
        other = [key for key, dtype in main.items() if DTYPES.get(dtype, dtype) != stated and dtype in DTYPES]
        if other:
            yield Finding(
                "weights",
                f"config.json states {stated}, but {len(other)} of {len(main)} tensors are of another dtype, the first "
                f"{other[0]} of {DTYPES[main[other[0]]]}",
            )


def _check_index(folder: Path, tensors: dict[str, dict[str, str]]) -> Iterator[Finding]:
    path = folder / "model.safetensors.index.json"
    shards = {name: held for name, held in tensors.items() if fnmatch(name, "model*.safetensors")}
    if not path.is_file():
        if len(shards) > 1:
            yield Finding("weights", f"there are {len(shards)} shards, but no {path.name}")
        return
    index = _json(path)
    where: dict[str, str] = index.get("weight_map", {})
    missing = sorted(set(where.values()) - set(shards))
    if missing:
        yield Finding("weights", f"{path.name} names {', '.join(missing)}, which is not there")
    held = {key: name for name, keys in shards.items() for key in keys}
    wrong = sorted(key for key in where.keys() | held.keys() if where.get(key) != held.get(key))
    if wrong and not missing:
        yield Finding("weights", f"{path.name} and the shards differ in {len(wrong)} tensors, the first {wrong[0]}")
    total = index.get("metadata", {}).get("total_size")
    size = sum(max((t.end for t in read_header(folder / name)[0].values()), default=0) for name in shards)
    if total is not None and not missing and not wrong and int(total) != size:
        yield Finding("weights", f"{path.name} states {int(total):,} bytes, and the tensors have {size:,}")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
