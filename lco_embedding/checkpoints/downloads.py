"""What goes wrong with a download, with a hint; and no pickles, whatever a repository holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from sentence_transformers.util import load_file_path

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".msgpack", ".h5")
"""Endings of files that hold, or may hold, pickles and weights of other kinds than safetensors."""

WITHOUT_WEIGHTS = ("Transformer", "Pooling", "Normalize")
"""Modules after the first that have no weights of their own, and the first, which is asked for safetensors anyway."""

INCOMPLETE = ("does not appear to have a file", "Unrecognized model in")
"""By what errors of transformers are known that mean: the repository does not hold a model."""


@contextmanager
def hinted(name: str | None, revision: str | None) -> Iterator[None]:
    """Add to an error of the Hub, or of a file that is not there, what can be done about it.

    Args:
        name: What is loaded; nothing is added for a folder.
        revision: That was asked for.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        # Of a folder, what is missing is said well enough.
        if name is not None and not Path(name).is_dir():
            _append(error, _hint(error, name, revision))
        raise


def _hint(error: OSError | ValueError, name: str, revision: str | None) -> str:
    if isinstance(error, RevisionNotFoundError):
        return f"There is no branch, tag or commit {revision!r} in {name}; leave revision out for its main branch."
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    if isinstance(error, RepositoryNotFoundError) or refused:
        return (
            f"Is {name!r} spelt right? A private or gated repository needs a token that may read it: pass token=..., "
            "set HF_TOKEN, or log in with `hf auth login`."
        )
    text = str(error)
    if isinstance(error, RemoteEntryNotFoundError) or any(sign in text for sign in INCOMPLETE):
        return (
            f"{name} is not complete, or no model: a config.json, a processor with a chat template and weights as "
            "safetensors are needed (weights in pickles are not read)."
        )
    if isinstance(error, HfHubHTTPError) or "connection error" in text:
        return "What was downloaded is kept: the same call goes on from there."
    if isinstance(error, LocalEntryNotFoundError) or "couldn't find them in the cached files" in text:
        at = f" --revision {revision}" if revision else ""
        return (
            f"{name} is not in the cache as a whole and could not be downloaded; with a connection, and without "
            f"HF_HUB_OFFLINE and local_files_only, `hf download {name}{at}` fetches it. Files that are there are kept."
        )
    return ""


def _append(error: OSError | ValueError, hint: str) -> None:
    if not hint:
        return
    if isinstance(error, HfHubHTTPError):
        error.append_to_message(f"\n{hint}")
    else:
        error.args = (f"{error}\n{hint}",)


def refuse_pickles(model_name_or_path: str, **hub: Any) -> None:
    """Make sure that the modules of a checkpoint have their weights in safetensors, where they have any.

    Sentence Transformers would read `pytorch_model.bin` of a module that has no `model.safetensors`.

    Args:
        model_name_or_path: Folder or Hub id.
        **hub: `token`, `cache_folder`, `revision`, `local_files_only`.

    Raises:
        ValueError: The weights of a module are pickled.
    """
    listing = load_file_path(model_name_or_path, "modules.json", **hub)
    if listing is None:
        return
    for entry in json.loads(Path(listing).read_text(encoding="utf8")):
        if entry["type"].endswith(WITHOUT_WEIGHTS):
            continue
        found = {
            file: load_file_path(model_name_or_path, file, subfolder=entry["path"], **hub) is not None
            for file in ("model.safetensors", "pytorch_model.bin")
        }
        if found["pytorch_model.bin"] and not found["model.safetensors"]:
            raise ValueError(
                f"{model_name_or_path} has the weights of {entry['path']} in a pickle, which is not read; "
                "load it where you trust it and save it again as safetensors"
            )
