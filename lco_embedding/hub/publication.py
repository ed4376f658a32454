"""Send a checkpoint to the Hub, after it has been verified.

    publish("folder", "me/model", tag="v1")

huggingface_hub does the sending: with Xet in parts, and without it file by file, it sends only what the Hub does not
have yet, so that an upload that was interrupted goes on when it is repeated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from lco_embedding.hub.files import stage
from lco_embedding.hub.layouts import export
from lco_embedding.hub.verification import VerificationError, verify
from lco_embedding.model_cards import LCOModelCardData, card_text
from lco_embedding.model_cards.card import README

if TYPE_CHECKING:
    from lco_embedding.model import LCOEmbedding

MAIN = "main"

REPLACED = (
    *("model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "adapter_config.json"),
    *("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin"),
)
"""Weights that an earlier version may have left in the repository, and that would be read beside the new ones."""


@dataclass(frozen=True)
class Destination:
    """Where a checkpoint goes on the Hub.

    Args:
        repo_id: The repository; that of the user if it names no owner.
        private: Make it private, if it is made.
        revision: Branch to commit to, made if it is not there.
        create_pr: Open a pull request instead.
        tag: Of the commit.
        exist_ok: The repository may exist.
        token: That of the login unless given.

    Raises:
        ValueError: Options exclude each other.
    """

    repo_id: str
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    exist_ok: bool = True
    token: str | bool | None = None

    def __post_init__(self) -> None:
        if self.create_pr and self.revision not in (None, MAIN):
            raise ValueError(f"a pull request is opened against {MAIN}; leave out the revision {self.revision!r}")
        if self.create_pr and self.tag is not None:
            raise ValueError(f"a pull request can't be tagged; tag {self.tag!r} when it is merged")


@contextmanager
def prepared(
    folder: str | Path,
    repo_id: str,
    adapter_only: bool = False,
    data: LCOModelCardData | None = None,
    earlier: str | None = None,
) -> Iterator[Path]:
    """Yield a folder of what is to be sent: the files of the checkpoint, with the card of its repository.

    Args:
        folder: The checkpoint, which is left as it is.
        repo_id: The repository.
        adapter_only: Send the adapter alone.
        data: What a person knows, for the card.
        earlier: A card whose own sections are kept, instead of that of the folder.
    """
    data = data or LCOModelCardData(local_files_only=True)
    data.set_model_id(repo_id)
    with tempfile.TemporaryDirectory() as room:
        source, staged = Path(folder), Path(room, "checkpoint")
        staged.mkdir()
        if adapter_only:
            source = export(folder, Path(room, "adapter"), "adapter", data=data)
        stage(source, staged)
        card = staged / README
        earlier = card.read_text(encoding="utf8") if earlier is None and card.exists() else earlier
        text = card_text(source, data, earlier)
        card.unlink(missing_ok=True)  # It may be a link.
        card.write_text(text, encoding="utf8")
        yield staged


def publish(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    adapter_only: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
    data: LCOModelCardData | None = None,
    device: str | None = None,
) -> str:
    """Verify a checkpoint and send it to the Hub.

    Args:
        folder: The checkpoint.
        repo_id: Where it goes; the repository is made if there is none.
        private: Make the repository private, if it is made.
        create_pr: Open a pull request instead of committing.
        revision: Branch to commit to.
        tag: Of the commit.
        adapter_only: Send the adapter alone, of a checkpoint that is one.
        token: That of the login unless given.
        commit_message: Of the commit.
        data: What a person knows, for the card.
        device: Where the model is loaded to be verified; the CPU by default.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        VerificationError: The checkpoint is not fit to be published; nothing was sent.
        ValueError: Options exclude each other.
        OSError: What the Hub answered, or that it did not.
    """
    to = Destination(repo_id, private, revision, create_pr, tag, token=token)
    with prepared(folder, repo_id, adapter_only, data) as staged:
        if findings := verify(staged, device=device):
            raise VerificationError(folder, findings)
        return upload(staged, to, commit_message)


def publish_model(
    model: LCOEmbedding,
    to: Destination,
    adapter_only: bool = False,
    replace_model_card: bool = False,
    local_model_path: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Save a model, verify what was saved against it, and send it to the Hub; see `LCOEmbedding.push_to_hub`."""
    earlier = None if replace_model_card else published_card(to)
    with tempfile.TemporaryDirectory() as room:
        if local_model_path is None:
            model.save_pretrained(room, model_name=to.repo_id)
        data = model.model_card_data if isinstance(model.model_card_data, LCOModelCardData) else None
        with prepared(local_model_path or room, to.repo_id, adapter_only, data, earlier) as staged:
            if findings := verify(staged, model):
                raise VerificationError(to.repo_id, findings)
            return upload(staged, to, commit_message)


def published_card(to: Destination) -> str | None:
    """Return the card that a repository has, None if it has none or is not there."""
    try:
        path = HfApi(token=to.token).hf_hub_download(to.repo_id, README, revision=to.revision)
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        return None
    return Path(path).read_text(encoding="utf8")


def upload(folder: str | Path, to: Destination, commit_message: str | None = None) -> str:
    """Send a folder to the Hub as it is, in one commit, without verifying it.

    Args:
        folder: What is sent.
        to: Where it goes.
        commit_message: Of the commit.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        OSError: What the Hub answered, or that it did not.
    """
    api = HfApi(token=to.token)
    with _explained(to):
        repo_id = api.create_repo(to.repo_id, private=to.private, exist_ok=to.exist_ok or to.create_pr).repo_id
        if to.tag is not None and any(ref.name == to.tag for ref in api.list_repo_refs(repo_id).tags):
            raise ValueError(f"{repo_id} has a tag {to.tag!r} already; nothing was sent. Choose another")
        if to.revision is not None and to.revision != MAIN and not to.revision.startswith("refs/"):
            api.create_branch(repo_id, branch=to.revision, exist_ok=True)
        commit: CommitInfo = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or f"Add {repo_id.split('/')[-1]}",
            revision=to.revision,
            create_pr=to.create_pr,
            delete_patterns=list(REPLACED),
        )
        if to.tag is not None:
            api.create_tag(repo_id, tag=to.tag, revision=commit.oid)
    return str(commit.pr_url if to.create_pr else commit.commit_url)


@contextmanager
def _explained(to: Destination) -> Iterator[None]:
    """Say of an error of the Hub what can be done, and that a repeat goes on."""
    again = (
        "Repeat the same command: files that have arrived are not sent again."
        if to.exist_ok
        else "Repeat with exist_ok=True: files that have arrived are not sent again."
    )
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 409 and not to.exist_ok:
            hint = f"{to.repo_id} exists already; pass exist_ok=True to add a version to it."
        elif status in (401, 403):
            hint = (
                f"Your token may not write to {to.repo_id}. Pass another, set HF_TOKEN, or log in with `hf auth "
                "login`; or open a pull request (--create-pr)."
            )
        else:
            hint = f"The upload to {to.repo_id} is not complete. {again}"
        error.append_to_message(f"\n{hint}")
        raise
    except (httpx.TransportError, RuntimeError) as error:
        why = " ".join(str(part) or type(part).__name__ for part in (error, error.__cause__) if part is not None)
        raise OSError(f"The upload to {to.repo_id} broke off ({why}). {again}") from error
