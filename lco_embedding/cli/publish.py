"""`lco-embedding publish`: a checkpoint to the Hub, after it was verified."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lco_embedding.cli.arguments import option, parse


@dataclass(frozen=True)
class PublishArguments:
    """Verify a checkpoint, and send it to the Hub if nothing is wrong with it.

    It is loaded in a fresh process by stock Sentence Transformers, whose embeddings must equal ours; weights, files,
    chat template, configuration and model card are checked; and everything that fails is listed. What training leaves
    in the folder beside the checkpoint is not sent. The token is that of HF_TOKEN or of `hf auth login`. An upload that
    was interrupted goes on when the command is repeated.
    """

    folder: str = option("the checkpoint", positional=True)
    repo: str = option("where it goes: OWNER/NAME; made if there is none", positional=True)
    private: bool = option("make the repository private, if it is made", False)
    create_pr: bool = option("open a pull request instead of committing", False)
    revision: str | None = option("branch to commit to, made if it is not there", None)
    tag: str | None = option("tag of the commit", None)
    adapter_only: bool = option("send the adapter alone, of a checkpoint that is one", False)
    message: str | None = option("commit message", None)
    device: str | None = option("device on which the model is loaded to be verified (default: cpu)", None)
    dry_run: bool = option("verify, print the files with their sizes and the card, and send nothing", False)


def main(argv: Sequence[str]) -> int:
    """Publish a checkpoint, or show what would be sent.

    Returns:
        0, or 1 if a dry run found something wrong.
    """
    arguments = parse(PublishArguments, argv, "lco-embedding publish")
    if not Path(arguments.folder).is_dir():
        raise ValueError(f"there is no folder {arguments.folder}")
    from lco_embedding.hub.publication import Destination, publish

    private = True if arguments.private else None
    Destination(arguments.repo, private, arguments.revision, arguments.create_pr, arguments.tag)
    if arguments.dry_run:
        return _show(arguments)
    url = publish(
        arguments.folder,
        arguments.repo,
        private=private,
        create_pr=arguments.create_pr,
        revision=arguments.revision,
        tag=arguments.tag,
        adapter_only=arguments.adapter_only,
        commit_message=arguments.message,
        device=arguments.device,
    )
    print(url)
    return 0


def _show(arguments: PublishArguments) -> int:
    """Print what would be sent, and what is wrong with it."""
    from lco_embedding.hub.files import published_files
    from lco_embedding.hub.publication import prepared
    from lco_embedding.hub.verification import verify
    from lco_embedding.model_cards.card import README

    with prepared(arguments.folder, arguments.repo, arguments.adapter_only) as staged:
        names = published_files(staged)
        sizes = {name: (staged / name).stat().st_size for name in names}
        for name, size in sizes.items():
            print(f"{size:>15,}  {name}")
        print(f"{sum(sizes.values()):>15,}  bytes in {len(names)} files for {arguments.repo}\n")
        print((staged / README).read_text(encoding="utf8"))
        findings = verify(staged, device=arguments.device)
    for finding in findings:
        print(f"- {finding}", file=sys.stderr)
    print(f"{len(findings)} check(s) failed; nothing was sent")
    return 1 if findings else 0
