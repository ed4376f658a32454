"""Inputs of any form, parsed into items: chat messages whose content is a list of text and media blocks.

Nothing is decoded here. [`MediaReader.check`] of `media_features` then reads the headers, so that a whole corpus is
checked before the first forward pass, and every problem is reported with the index of its input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from lco_embedding.modules import media
from lco_embedding.modules.media import Kind, MediaError, describe

MEDIA_KINDS: tuple[Kind, ...] = ("image", "audio", "video")
KINDS: tuple[Kind, ...] = ("text", *MEDIA_KINDS)

# Keys under which a chat block may hold its medium, besides the name of its kind.
SOURCE_KEYS = ("url", "path", "base64")

MAX_PATH_LENGTH = 1024
"""A longer string is a text, whatever it ends in."""

# What a name of unknown ending must hold to be looked up: a folder, or an ending. Few texts do.
LIKE_A_PATH = re.compile(r"[/\\]|\.\w{1,8}$")

NO_EXTENT = media.Extent()


@dataclass(frozen=True)
class Problem:
    """Why one input can't be embedded: its `index` in the list, `source` (file or kind) and `reason`."""

    index: int
    source: str
    reason: str

    def __str__(self) -> str:
        return f"input {self.index} ({self.source}): {self.reason}"


class InputError(ValueError):
    """One or more inputs that can't be embedded; `problems` lists each with its index.

    Args:
        problems: The problems.
        scope: What the indices count in: the "list" that was given, or a "batch" that a loader made of it.
    """

    def __init__(self, problems: Sequence[Problem] | str, scope: Literal["list", "batch"] = "list") -> None:
        if isinstance(problems, str):
            # A worker of a data loader hands an error over as the text of its traceback.
            self.problems, self.scope = [], scope
            super().__init__(problems.rpartition(f"{type(self).__name__}: ")[2].strip())
            return
        self.problems = list(problems)
        self.scope = scope
        listed = "\n".join(f"- {problem}" for problem in self.problems)
        where = "" if scope == "list" else " of this batch"
        remedy = "Mend or drop them"
        if scope == "list":
            remedy += ', or pass on_error="nan" to encode() to get NaN rows for them and the rest unharmed'
        super().__init__(f"{len(self.problems)} input(s){where} can't be embedded:\n{listed}\n{remedy}.")

    def __reduce__(self) -> tuple[type[InputError], tuple[list[Problem], str]]:
        return InputError, (self.problems, self.scope)


@dataclass(frozen=True)
class Block:
    """A piece of content: a string for text, else a media value as the user gave it, and what its header tells."""

    kind: Kind
    value: Any
    extent: media.Extent = NO_EXTENT

    @property
    def identity(self) -> tuple[str, Any]:
        """A key that blocks share only if they say the same."""
        is_value = isinstance(self.value, str | bytes | os.PathLike)
        return self.kind, self.value if is_value else id(self.value)

    @property
    def source(self) -> str:
        """How an error names this block."""
        return "text" if self.kind == "text" else f"{self.kind} {describe(self.value)}"


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Item:
    """One input, parsed.

    Args:
        index: Its position in the caller's list.
        messages: Its chat messages, mostly a single one of the user.
        is_checked: Whether the headers of its media are read and fit the model, so that its blocks have their extents.
    """

    index: int
    messages: tuple[Message, ...]
    is_checked: bool = False

    @property
    def blocks(self) -> list[Block]:
        """Every block of every message, in order."""
        return [block for message in self.messages for block in message.blocks]

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that items share only if they say the same: of media, paths and bytes, or one and the same object."""
        return tuple((message.role, *(block.identity for block in message.blocks)) for message in self.messages)

    @property
    def media(self) -> list[Block]:
        """The blocks that are not text, in order."""
        return [block for block in self.blocks if block.kind != "text"]

    @property
    def is_empty(self) -> bool:
        """Whether it holds no media and only blank text."""
        return all(block.kind == "text" and not block.value.strip() for block in self.blocks)


@contextmanager
def one_item() -> Iterator[None]:
    """Turn any exception of reading one item into a [`MediaError`], so that the item costs itself alone.

    Media are untrusted, and the libraries that read them raise almost anything on a broken file. Exhausted memory is
    no fault of the item and stays what it is.

    Raises:
        MediaError: Reading failed; the message holds the reason that the library gives.
    """
    try:
        yield
    except (MediaError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip() or "no reason given"
        raise MediaError(f"it can't be read ({type(error).__name__}: {reason})") from error


def parse_inputs(inputs: Sequence[Any]) -> tuple[list[Item], list[Problem]]:
    """Parse inputs into items, by their types and names; no header is read but of a file whose name does not tell.

    Args:
        inputs: Anything that [`parse_input`] takes; items are passed through.

    Returns:
        The good items, in order and with their indices, and the problems of the others.
    """
    items: list[Item] = []
    problems: list[Problem] = []
    for index, value in enumerate(inputs):
        if isinstance(value, Item):
            items.append(value)
            continue
        source = type(value).__name__
        try:
            with one_item():
                source = describe(value)
                items.append(Item(index, tuple(parse_input(value))))
        except MediaError as error:
            problems.append(Problem(index, source, str(error)))
    return items, problems


def parse_input(value: Any) -> list[Message]:
    """Parse one input into chat messages.

    Args:
        value: A string (text, the path of an existing media file, or a data URI), a path object, bytes, an open
            file, which is read from its start, a PIL image, an array (1 or 2 axes: audio, 3: image, 4: video), a list
            of images (the frames of a video), a `torchcodec` decoder, `{"array", "sampling_rate"}`,
            `{"array", "video_metadata"}`, a dict with one or more of `text`, `image`, `audio`, `video`, each a value
            or a list of them, or a chat message or list of such.

    Raises:
        MediaError: The value is empty, missing, or of no type that can be embedded.
    """
    if _is_message(value):
        return _chat([value])
    if isinstance(value, list | tuple) and value and all(_is_message(entry) for entry in value):
        return _chat(value)
    if isinstance(value, Mapping) and value.keys() <= set(KINDS) and value:
        blocks = [block for kind, entry in value.items() for block in _blocks_of(kind, entry)]
        # An empty string beside other content is an absent text, as in the published training data.
        present = [block for block in blocks if block.kind != "text" or block.value.strip()]
        return [Message("user", tuple(present or blocks[:1]))]
    return [Message("user", (_bare_block(value),))]


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and "content" in value


def _chat(entries: Sequence[Mapping[str, Any]]) -> list[Message]:
    messages = [_message(entry) for entry in entries]
    if not any(message.role == "user" for message in messages):
        raise MediaError("a chat needs a message of the role 'user': the prompt goes there")
    return messages


def _message(value: Mapping[str, Any]) -> Message:
    content = value["content"]
    if isinstance(content, str):
        return Message(str(value["role"]), (_text_block(content),))
    if not isinstance(content, list | tuple) or not content:
        raise MediaError(f"the content of a message must be text or a list of blocks, got {describe(content)}")
    return Message(str(value["role"]), tuple(block for entry in content for block in _chat_block(entry)))


def _chat_block(entry: Any) -> list[Block]:
    if isinstance(entry, str):
        return [_text_block(entry)]
    if not isinstance(entry, Mapping):
        raise MediaError(f"a block of a message must be a dict with a 'type', got {describe(entry)}")
    kind = entry.get("type", next((kind for kind in KINDS if kind in entry), None))
    if kind == "image_url":
        url = entry.get("image_url")
        return [_media_block("image", url.get("url") if isinstance(url, Mapping) else url)]
    if kind not in KINDS:
        raise MediaError(f"a block of a message has type {kind!r}; expected one of {', '.join(KINDS)}")
    for key in (kind, *SOURCE_KEYS):
        if entry.get(key) is not None:
            content = entry[key]
            return _blocks_of(kind, media.decode_base64(content) if key == "base64" else content)
    raise MediaError(f"a block of type {kind!r} has no {kind!r}")


def _blocks_of(kind: Any, entry: Any) -> list[Block]:
    """Return the blocks of one key of a dict: one value, or a list of them."""
    several = isinstance(entry, list | tuple) and not (kind == "video" and _is_frames(entry))
    if several and not entry:
        raise MediaError(f"the list of {kind} is empty")
    entries = entry if several else [entry]
    if kind != "text":
        return [_media_block(kind, value) for value in entries]
    for value in entries:
        if not isinstance(value, str):
            raise MediaError(f"the text must be a string, got {describe(value)}")
    return [_text_block(value) for value in entries]


def _is_frames(value: Any) -> bool:
    """Tell whether a list is the frames of one video rather than several videos."""
    return bool(value) and all(
        isinstance(frame, Image.Image)
        or (isinstance(frame, np.ndarray | torch.Tensor) and frame.ndim == 3)
        or (isinstance(frame, str | os.PathLike) and media.kind_of_path(os.fspath(frame)) == "image")
        for frame in value
    )


def _text_block(text: str) -> Block:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MediaError(f"the text is not valid Unicode ({error.reason})") from error
    return Block("text", str(text))


def _media_block(kind: Kind, value: Any) -> Block:
    """Return the block of a medium whose kind is known."""
    if value is None:
        raise MediaError(f"the {kind} is None")
    if isinstance(value, str):
        if value.startswith("data:"):
            named, content = media.decode_data_uri(value)
            if named not in (None, kind):
                raise MediaError(f"the data URI holds {named}, not {kind}")
            return Block(kind, content)
        if _is_url(value):
            raise MediaError("URLs are not fetched: download the file and pass its path")
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        # The undecoded form of the datasets library.
        return _media_block(kind, value.get("bytes") or value.get("path"))
    if kind == "video" and isinstance(value, Mapping) and "audio" in value:
        return Block(kind, {**value, "audio": _content(value["audio"])})
    return Block(kind, _content(value))


def _content(value: Any) -> Any:
    """Return what can be read as `bytes`, and anything else as it is."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping) and _is_nested(value.get("array")):
        # As the datasets library returns arrays.
        return {**value, "array": np.asarray(value["array"])}
    return media.read_stream(value) if isinstance(value, media.Stream) else value


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def without_absent(value: Any) -> Any:
    """Return an input without the kinds that are None, which the datasets library fills in where a row lacks them."""
    if isinstance(value, Mapping) and value.keys() <= set(KINDS):
        return {kind: content for kind, content in value.items() if content is not None}
    return value


def _bare_block(value: Any) -> Block:
    """Return the block of a value that does not say what it is."""
    if isinstance(value, str):
        return _string_block(value)
    value = _content(value)
    if isinstance(value, bytes):
        return Block(media.sniff(value), value)
    if isinstance(value, os.PathLike):
        return Block(media.kind_of_file(value) or media.sniff(value), value)
    if isinstance(value, Image.Image):
        return Block("image", value)
    if isinstance(value, media.AudioDecoder):
        return Block("audio", value)
    if isinstance(value, media.VideoDecoder):
        return Block("video", value)
    if isinstance(value, np.ndarray | torch.Tensor):
        kind = {1: "audio", 2: "audio", 3: "image", 4: "video"}.get(value.ndim)
        if kind is None:
            raise MediaError("an array has 1 or 2 axes for audio, 3 for an image, 4 for a video")
        return Block(kind, value)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return _mapping_block(value)
    if isinstance(value, list | tuple):
        if not value:
            raise MediaError("an empty list: there is nothing to embed")
        if _is_frames(value):
            return Block("video", list(value))
        raise MediaError(
            "a list is neither the frames of a video nor chat messages; "
            'for several pieces of one kind use {"text": [...]} or {"image": [...]}'
        )
    if value is None:
        raise MediaError("the input is None (a missing value?)")
    if type(value).__name__ in ("Series", "DataFrame"):
        raise MediaError('a row or table of a data frame is a dict in its to_dict(), or a list in to_dict("records")')
    raise MediaError("can't be embedded; expected text, path, bytes, image, array, dict or chat messages")


def _mapping_block(value: Mapping[str, Any]) -> Block:
    keys = value.keys()
    if "array" in keys and "sampling_rate" in keys:
        return Block("audio", value)
    if "array" in keys and "video_metadata" in keys:
        return _media_block("video", value)
    if "array" in keys:
        raise MediaError("beside 'array' a dict needs 'sampling_rate' (audio) or 'video_metadata' (video)")
    if keys and keys <= {"bytes", "path"}:
        content = value.get("bytes") or value.get("path")
        if isinstance(content, bytes):
            return Block(media.sniff(content), content)
        if isinstance(content, str):
            return Block(media.kind_of_file(Path(content)) or media.sniff(Path(content)), content)
    if not keys:
        raise MediaError("an empty dict: there is nothing to embed")
    unknown = sorted(str(key) for key in keys if key not in KINDS)
    raise MediaError(f"unknown keys {unknown}; expected some of {', '.join(KINDS)}")


def _string_block(text: str) -> Block:
    if text.startswith(("data:image/", "data:audio/", "data:video/")) and "," in text[:256]:
        named, content = media.decode_data_uri(text)
        return Block(media.settle_kind(named, content), content)
    name = text.strip()  # a line of a file list ends in a line break
    if len(name) > MAX_PATH_LENGTH or "\n" in name:
        return _text_block(text)
    named = media.kind_of_path(urlsplit(name).path if _is_url(name) else name)
    if named and _is_url(name):
        raise MediaError(f'URLs are not fetched: download the file, or pass {{"text": {text!r}}} to embed the string')
    if (named or LIKE_A_PATH.search(name)) and os.path.isfile(name):
        kind = media.kind_of_file(Path(name))
        return Block(kind, name) if kind else _text_block(text)
    if named:
        raise MediaError(
            f"it looks like the path of {'an' if named[0] in 'ai' else 'a'} {named}, but there is no such file; "
            'if it is a text, pass {"text": ...}'
        )
    return _text_block(text)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://", "ftp://", "s3://", "gs://", "hf://")) and " " not in text
