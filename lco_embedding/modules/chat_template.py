"""Write messages as the model reads them: the chat template, the LCO prompts, and text that stays text.

The prompts live in the chat template itself, so that a saved checkpoint renders the same anywhere: [`with_prompts`]
puts a prelude before a backbone's own template that appends the prompt to the last user message. Which prompt follows
from the content of the whole chat: one for each modality, another for mixtures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils.chat_template_utils import mark_control_tokens, render_jinja_template

from lco_embedding.modules.inputs import Block, Item, Message

PROMPT = "\nSummarize the above{} in one word:"
"""The LCO-Emb prompt; the gap takes the modality (" text", " image", ...), or nothing for mixed content (LCO-Emb
repository and model cards)."""

PRELUDE = """\
{#- LCO-Emb: append the prompt that fits the content of the chat to the last user message. -#}
{%- set lco = namespace(user=-1, kinds=[]) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{%- set lco.user = loop.index0 -%}{%- endif -%}
{%- if message['role'] != 'system' -%}
{%- for block in ([{'type': 'text'}] if message['content'] is string else message['content']) -%}
{%- if block['type'] not in lco.kinds -%}{%- set lco.kinds = lco.kinds + [block['type']] -%}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if lco.user >= 0 -%}
{%- set user = messages[lco.user] -%}
{%- set content = [{'type': 'text', 'text': user['content']}] if user['content'] is string else user['content'] -%}
{%- set kind = ' ' + lco.kinds[0] if lco.kinds | length == 1 else '' -%}
{%- set prompt = [{'type': 'text', 'text': '\\nSummarize the above' + kind + ' in one word:'}] -%}
{%- set user = [{'role': 'user', 'content': content + prompt}] -%}
{%- set messages = messages[:lco.user] + user + messages[lco.user + 1:] -%}
{%- endif -%}
"""


def with_prompts(template: str) -> str:
    """Return a chat template that renders as `template` does, with the LCO prompts appended."""
    return PRELUDE + template


def without_prompts(template: str | dict[str, str]) -> str | dict[str, str]:
    """Return a chat template, or several by name, without what `with_prompts` put before them."""
    if isinstance(template, dict):
        return {name: text.removeprefix(PRELUDE) for name, text in template.items()}
    return template.removeprefix(PRELUDE)


def has_prompts(processor: ProcessorMixin, chat_template_kwargs: dict[str, Any]) -> bool:
    """Tell whether the chat template in use appends the LCO prompts by itself."""
    item = Item(0, (Message("user", (Block("text", "."),)),))
    return PROMPT.format(" text") in render(processor, item, chat_template_kwargs)


CONTENT = "CONTENT"
"""Stands for a text where a chat template is asked what it writes around one."""


def read_prompts(template: str, kinds: Sequence[str], chat_template_kwargs: dict[str, Any]) -> dict[str, str]:
    """Return what a chat template writes after the content of a user's message, by that content.

    Args:
        template: The chat template, whose text decides: prompts differ from checkpoint to checkpoint.
        kinds: What the model takes, of "text", "image", "audio" and "video".
        chat_template_kwargs: Arguments of the template, such as `add_generation_prompt`.

    Returns:
        The prompt, the end of the turn and the beginning of the answer: for each kind, and for mixtures of a medium
        with a text ("image, text"). Content that the template refuses or does not write is left out.
    """

    def rendered(*content: str) -> str:
        blocks = [{"type": kind, **({"text": CONTENT} if kind == "text" else {})} for kind in content]
        chat = [{"role": "user", "content": blocks}]
        text, _ = render_jinja_template([chat], chat_template=template, **chat_template_kwargs)
        return str(text[0])

    found = {}
    for content in [(kind,) for kind in kinds] + [(kind, "text") for kind in kinds if kind != "text"]:
        with suppress(TemplateError, ValueError):
            text = rendered(*content)
            if content[-1] == "text":
                end = text.rindex(CONTENT) + len(CONTENT)
            else:
                # A second medium of the kind lengthens the chat by what stands for one, which begins as a text does.
                end = rendered("text").index(CONTENT) + len(rendered(*content, *content)) - len(text)
            found[", ".join(content)] = text[end:]
    return found


def check_chats(processor: ProcessorMixin, source: str, chosen: str, chat_template_kwargs: dict[str, Any]) -> None:
    """Check that texts reach the model: without a tokenizer or template all of them would have one embedding.

    Args:
        processor: The processor of the checkpoint.
        source: How an error names the checkpoint.
        chosen: Name of the chat template in use, or its text.
        chat_template_kwargs: Arguments of the template.

    Raises:
        ValueError: There is no chat template, none of that name, one that writes no text, or no vocabulary.
    """
    templates = processor.chat_template
    if templates is None:
        raise ValueError(f"{source} has no chat template; pass one in processor_kwargs")
    names = sorted(templates) if isinstance(templates, dict) else ["default"]
    if chosen not in names and "{" not in chosen:
        raise ValueError(f"{source} asks for the chat template {chosen!r}, which it lacks; it has {names}")
    items = [Item(0, (Message("user", (Block("text", text),)),)) for text in ("red", "moon")]
    first, other = (render(processor, item, chat_template_kwargs) for item in items)
    if first == other:
        raise ValueError(f"the chat template of {source} does not write the text of a message")
    ids = encode(processor.tokenizer, [first, other])
    if ids[0] == ids[1]:
        raise ValueError(f"the tokenizer of {source} knows no words; is its tokenizer.json missing?")


def render(processor: ProcessorMixin, item: Item, chat_template_kwargs: dict[str, Any]) -> str:
    """Render an item as one string, in which each medium stands as its single placeholder token.

    Control tokens in the user's text are wrapped in markers, by which [`encode`] knows them as text.
    """
    tokens = _control_tokens(tuple(processor.tokenizer.added_tokens_encoder))
    conversation = [
        {
            "role": _marked(message.role, tokens),
            "content": [
                {"type": "text", "text": _marked(block.value, tokens)} if block.kind == "text" else {"type": block.kind}
                for block in message.blocks
            ],
        }
        for message in item.messages
    ]
    return processor.apply_chat_template(conversation, tokenize=False, **chat_template_kwargs)  # type: ignore[no-any-return]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize rendered chats; marked control tokens become the tokens of their characters.

    Returns:
        The token ids of each chat, without padding.
    """
    bos = tokenizer.bos_token
    # A template that writes no begin-of-sequence token leaves it to the tokenizer, as upstream processors do.
    add_special_tokens = not (bos and texts and texts[0].startswith(bos))
    plain = [text for text in texts if not _is_marked(text)]
    ids = iter(tokenizer(plain, add_special_tokens=add_special_tokens, verbose=False)["input_ids"] if plain else [])
    return [_encode_marked(tokenizer, text, add_special_tokens) if _is_marked(text) else next(ids) for text in texts]


def encode_stretches(tokenizer: PreTrainedTokenizerBase, stretches: Sequence[str]) -> list[list[int]]:
    """Tokenize the stretches of one chat, each for itself; only the first begins as a chat does."""
    first, *others = stretches
    plain = [text for text in others if not _is_marked(text)]
    ids = iter(tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"] if plain else [])
    rest = [_encode_marked(tokenizer, text, False) if _is_marked(text) else next(ids) for text in others]
    return [*encode(tokenizer, [first]), *rest]


def _encode_marked(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool) -> list[int]:
    start = tokenizer("")["input_ids"] if add_special_tokens else []
    return [*start, *tokenizer(text, add_special_tokens=False, sanitize_control_tokens=True)["input_ids"]]


def cut_text(tokenizer: PreTrainedTokenizerBase, item: Item, max_tokens: int) -> Item:
    """Return `item` with its text cut to `max_tokens` tokens in all, later blocks first; the same item if it fits.

    System messages are prompts and stay whole.
    """
    texts = [block.value for message in item.messages if message.role != "system" for block in message.blocks]
    if sum(len(text.encode()) for text in texts if isinstance(text, str)) <= max_tokens:
        return item  # no tokenizer here makes more tokens than bytes
    left = max_tokens
    messages = []
    for message in item.messages:
        blocks = []
        for block in message.blocks:
            if block.kind == "text" and message.role != "system":
                text, used = _cut(tokenizer, block.value, left)
                left -= used
                block = block if text == block.value else replace(block, value=text)
            blocks.append(block)
        messages.append(replace(message, blocks=tuple(blocks)))
    return item if tuple(messages) == item.messages else replace(item, messages=tuple(messages))


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> tuple[str, int]:
    # To be told apart from the control tokens that it will not become, each loses its first character; the lengths
    # stay. (`split_special_tokens` would do so too, but by a switch that other threads see.)
    tokens = _control_tokens(tuple(tokenizer.added_tokens_encoder))
    counted = tokens.sub(lambda match: " " + match[0][1:], text)
    encoding = tokenizer(counted, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoding["offset_mapping"]
    if len(offsets) <= max_tokens:
        return text, len(offsets)
    # The first token left out may start within a character, whose offset is that of the whole character.
    return text[: offsets[max_tokens][0]], max_tokens


@lru_cache
def _control_tokens(tokens: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _marked(text: str, tokens: re.Pattern[str]) -> str:
    return mark_control_tokens(text, tokens) if tokens.search(text) else text


# The characters with which transformers marks a control token in user text, read off a marked one.
_START, _, _END = mark_control_tokens("x", re.compile("x"))
_MARKER = re.compile(f"[{_START}{_END}]")


def _is_marked(text: str) -> bool:
    return _MARKER.search(text) is not None
