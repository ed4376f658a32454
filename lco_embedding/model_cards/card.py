"""Write a model card, and write it anew without losing what a person has added.

What is generated stands between marks; text outside of them is kept where it is, and a section whose heading a person
has taken for their own is not generated again.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]
from jinja2 import TemplateError
from sentence_transformers.util import load_file_path
from transformers import logging as transformers_logging

from lco_embedding.atomic_writes import write_text
from lco_embedding.checkpoints.info import Checkpoint
from lco_embedding.model_cards.card_data import LCOModelCardData

logger = transformers_logging.get_logger(__name__)

README = "README.md"

BLOCK = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n(?P<text>.*?)<!-- end of (?P=name) -->\n?", re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(?P<yaml>.*?)^---\n", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## +(.+?)\s*$", re.MULTILINE)
STOCK = "This is a [sentence-transformers](https://www.SBERT.net) model"
"""By what a card that Sentence Transformers made is known; there is nothing in it to keep."""

LICENSE = ("license", "license_name", "license_link")


def card_text(folder: str | Path | Checkpoint, data: LCOModelCardData | None = None, earlier: str | None = None) -> str:
    """Return the card of a checkpoint.

    Args:
        folder: The checkpoint, or what is known about it.
        data: What a person knows about it.
        earlier: A card of it, whose own sections are kept.

    Raises:
        ValueError: The metadata of the earlier card, or an evaluation in the folder, can't be read.
    """
    checkpoint = folder if isinstance(folder, Checkpoint) else Checkpoint.read(folder)
    # The data may be that of a live model, which will write other cards, and holds the model itself.
    data = copy.copy(data) if data is not None else LCOModelCardData(local_files_only=True)
    data.tags, data.datasets = list(data.tags), list(data.datasets)
    data.describe(checkpoint)
    if earlier is not None and STOCK in earlier and not BLOCK.search(earlier):
        earlier = None
    kept = metadata_of(earlier) if earlier is not None else {}
    _inherit(data, kept)
    try:
        text = ModelCard.from_template(card_data=data, template_path=str(data.template_path)).content
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the training record of {checkpoint.name} is not as training writes it: {error}") from error
    text = re.sub(r"\n{3,}", "\n\n", text)
    if earlier is None:
        return text
    return _with_metadata(_merged(earlier, text), _metadata(kept, metadata_of(text)))


def write_card(folder: str | Path, data: LCOModelCardData | None = None, earlier: str | None = None) -> Path:
    """Write the card of a checkpoint into its folder.

    Args:
        folder: The checkpoint.
        data: What a person knows about it.
        earlier: A card whose own sections are kept; that of the folder, if it has one, unless given.

    Returns:
        The path of the card.
    """
    path = Path(folder, README)
    if earlier is None and path.is_file():
        earlier = path.read_text(encoding="utf8")
    write_text(path, card_text(folder, data, earlier))
    return path


def save_card(folder: str | Path, data: LCOModelCardData | None = None, earlier: str | None = None) -> None:
    """Write the card beside weights that were just saved: what is wrong with it is told, but costs nothing else."""
    try:
        write_card(folder, data, earlier)
    except ValueError as error:
        logger.error(f"{folder} has no model card yet ({error}); mend that, and write it with `lco-embedding card`.")


def is_generated(text: str | None) -> bool:
    """Tell whether a card holds what was generated here."""
    return text is not None and BLOCK.search(text) is not None


def metadata_of(card: str) -> dict[str, Any]:
    """Return the metadata of a card.

    Raises:
        ValueError: It is no YAML, or no mapping.
    """
    match = FRONT_MATTER.match(card)
    try:
        data = yaml.safe_load(match["yaml"]) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata of the card is not YAML: {error}") from None
    if not isinstance(data or {}, dict):
        raise ValueError(f"the metadata of the card is not a mapping but {type(data).__name__}")
    return data or {}


def _inherit(data: LCOModelCardData, kept: dict[str, Any]) -> None:
    """Take license and language from the earlier card, else the license from that of the base, if that is at hand."""
    if not data.language and kept.get("language"):
        data.set_language(kept["language"])
    if data.license is None and "license" not in kept and isinstance(data.base_model, str):
        path = load_file_path(data.base_model, README, revision=data.base_model_revision, local_files_only=True)
        kept = metadata_of(Path(path).read_text(encoding="utf8")) if path is not None else {}
    if data.license is None and "license" in kept:
        for name in LICENSE:
            setattr(data, name, kept.get(name))


def _merged(earlier: str, new: str) -> str:
    """Put the generated blocks of a new card into an earlier one."""
    blocks = {match["name"]: match[0] for match in BLOCK.finditer(new)}
    own = {title.lower() for title in HEADING.findall(BLOCK.sub("", earlier))}
    placed: set[str] = set()

    def replace(match: re.Match[str]) -> str:
        placed.add(match["name"])
        # What is not known any more, as the training of a model that was copied, stays as it was.
        return blocks.get(match["name"], match[0])

    text = BLOCK.sub(replace, earlier)
    missing = [
        block
        for name, block in blocks.items()
        if name not in placed and not any(title.lower() in own for title in HEADING.findall(block))
    ]
    return "\n".join([text.rstrip("\n") + "\n", *missing]) if missing else text


def _metadata(kept: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Join the metadata of two cards: what is known now goes over what was; tags are joined."""
    tags = list(dict.fromkeys([*new.get("tags", []), *(kept.get("tags") or [])]))
    return {**new, **{key: value for key, value in kept.items() if key not in new}, "tags": tags}


def _with_metadata(card: str, data: dict[str, Any]) -> str:
    body = FRONT_MATTER.sub("", card, count=1)
    return f"---\n{yaml_dump(data, sort_keys=False).strip()}\n---\n{body}"
