"""`--push_to_hub`: the result of a training to the Hub, as `lco-embedding publish` sends it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers import logging as transformers_logging

from lco_embedding.hub.publication import MAIN, Destination, publish
from lco_embedding.hub.verification import VerificationError

logger = transformers_logging.get_logger(__name__)

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def without_push(arguments: Arguments) -> tuple[Arguments, Destination | None]:
    """Take out of arguments what is to be pushed, so that the trainer neither pushes nor knows the token.

    Args:
        arguments: Of the command; they are left as they are.

    Returns:
        The arguments for the trainer, and where the result goes; None if it is not pushed.

    Raises:
        OSError: The token is not valid, or the Hub is not reached.
    """
    kept = copy.copy(arguments)
    kept.push_to_hub, kept.hub_token = False, None
    if not arguments.push_to_hub:
        return kept, None
    repo = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
    to = Destination(repo, arguments.hub_private_repo, arguments.hub_revision or MAIN, token=arguments.hub_token)
    if arguments.process_index == 0:
        # A wrong token is to be known before hours of training.
        HfApi(token=to.token).whoami()
    return kept, to


def push(folder: Path, to: Destination) -> None:
    """Verify the result of a training and send it.

    Raises:
        VerificationError: It is not fit to be published; nothing was sent.
        OSError: What the Hub answered, or that it did not.
    """
    try:
        url = publish(folder, to.repo_id, to.private, revision=to.revision, token=to.token)
    except (VerificationError, OSError):
        logger.warning(f"The result is in {folder}, from where `lco-embedding publish` sends it.")
        raise
    logger.warning(f"The result is published: {url}")
