"""The third room: an omnimodal LLM as a Sentence Transformers module, from checked inputs to hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.cache_utils import Cache

from lco_embedding.modules import chat_template, processing_settings
from lco_embedding.modules.backbone_transformer import BackboneTransformer
from lco_embedding.modules.batching import Row, join_features, pad
from lco_embedding.modules.inputs import (
    Block,
    InputError,
    Item,
    Message,
    Problem,
    one_item,
    parse_inputs,
    without_absent,
)
from lco_embedding.modules.length_bucketing import forward_by_length
from lco_embedding.modules.media import MediaError
from lco_embedding.modules.media_features import MediaReader, splice
from lco_embedding.modules.prefix_cache import cache_prefix
from lco_embedding.modules.processing_settings import ProcessingKwargs
from lco_embedding.modules.vision_chunking import read_in_pieces

TEMPLATE_TOKENS = 256
"""More than a chat template and the LCO prompt add to a message; shorter chats need no exact count."""


class OmniTransformer(BackboneTransformer):
    """An omnimodal LLM without its language head, which turns mixed inputs into hidden states.

    It reads what `sentence_transformers.base.modules.Transformer` reads and is saved as that, and adds raw backbones
    (of a larger model only the part that embeds is loaded), LCO prompts for them, inputs of any kind that are checked
    before they are decoded, and text that never becomes a control token.

    Args:
        model_name_or_path: Folder or Hub id of a checkpoint.
        processing_kwargs: Settings of the processing, saved with the checkpoint; see `processing_kwargs` below.
        **kwargs: As in `Transformer`: `model_kwargs`, `processor_kwargs`, `config_kwargs`, `max_seq_length`, ...
            With `model_kwargs={"load_towers": False}` only the decoder is loaded, which takes only text.

    The settings, by kind; each can be overridden in a call of `encode` or `preprocess`:
        - `image`: `max_pixels` and `min_pixels`, the area that an image is resized to fit (default at most
          1280 * 28 * 28), or `size` as the image processor takes it.
        - `video`: `fps` (2.0), `min_frames` (4), `max_frames` (64), `max_pixels` and `min_pixels` of a frame (at most
          768 * 28 * 28), `load_audio_from_video` (False).
        - `audio`: `truncation` (False): cut audio longer than the model hears, instead of refusing it.
        - `text`: `max_length`: cut the text of an input to so many tokens, before the prompt is added.
        - `chat_template`: arguments of the chat template, such as `add_generation_prompt` (True).

    Raises:
        ValueError: The architecture is not supported.
    """

    def __init__(
        self, model_name_or_path: str, *, processing_kwargs: ProcessingKwargs | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model_name_or_path, processing_kwargs=processing_kwargs, **kwargs)
        self.tokenizer.padding_side = "left"
        settings = dict(processing_kwargs or {})
        if kwargs.get("modality_config") is not None:
            # A checkpoint that Sentence Transformers saved means what it means there, where this is False.
            settings["chat_template"] = {"add_generation_prompt": False, **settings.get("chat_template", {})}
        self.processing_kwargs: ProcessingKwargs = processing_settings.with_defaults(
            settings, self.processor, self.backbone
        )
        for name in self.backbone.packed_towers:
            read_in_pieces(self.model.get_submodule(name))
        chat_template.check_chats(
            self.processor,
            model_name_or_path,
            self.processing_kwargs["chat_template"].get("chat_template", "default"),
            self._template_kwargs(self.processing_kwargs),
        )

    def add_prompts(self) -> None:
        """Make the chat template append the LCO prompts, unless it does so already."""
        if chat_template.has_prompts(self.processor, self._template_kwargs(self.processing_kwargs)):
            return
        template = self.processor.chat_template
        if isinstance(template, dict):
            self.processor.chat_template = {name: chat_template.with_prompts(text) for name, text in template.items()}
        else:
            self.processor.chat_template = chat_template.with_prompts(template)

    # --- input ------------------------------------------------------------------------------------------------------

    @property
    def max_text_tokens(self) -> int:
        """Tokens that a chat may hold: the checkpoint's `max_seq_length`, at most the context of the decoder."""
        return min(self.tokenizer.model_max_length or self.context, self.context)

    @property
    def context(self) -> int:
        """Tokens that the decoder can read at once."""
        context: int = self.config.get_text_config().max_position_embeddings
        return context

    def reader(self, processing_kwargs: ProcessingKwargs | None = None) -> MediaReader:
        """Return the reader of media under the settings of a call, which go over those of the checkpoint.

        Raises:
            ValueError: A setting is unknown or out of range.
        """
        merged = processing_settings.override(self.processing_kwargs, processing_kwargs, self.backbone)
        return MediaReader(self.processor, self.backbone, merged)

    def parse(self, inputs: Sequence[Any], reader: MediaReader | None = None) -> tuple[list[Item], list[Problem]]:
        """Parse inputs into items, checking types, paths and headers but decoding nothing.

        Args:
            inputs: Anything that `parse_input` of `lco_embedding.modules.inputs` takes, or items.
            reader: The reader of the call; that of the checkpoint's settings unless given.

        Returns:
            The good items with their indices, and the problems of the others.
        """
        parsed, problems = parse_inputs(inputs)
        items, found = (reader or self.reader()).check(parsed)
        return items, sorted([*problems, *found], key=lambda problem: problem.index)

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Turn inputs into a batch of features.

        Args:
            inputs: Anything that `parse_input` of `lco_embedding.modules.inputs` takes, or items.
            prompt: A system message to put before each chat.
            processing_kwargs: Settings for this call, over those of the checkpoint.
            **kwargs: `max_length`: cut text to so many tokens before the prompt; `task`: for templates that use it.

        Returns:
            `input_ids` and `attention_mask` of shape (rows, tokens), padded on the tokenizer's side (left), and the
            features of the media in the order of their placeholders; an empty dict for no inputs.

        Raises:
            InputError: Some inputs can't be embedded; it lists all that types and headers show, else the first that
                decoding shows.
        """
        if not len(inputs):
            return {}
        reader = self.reader(processing_kwargs)
        items, problems = self.parse([without_absent(value) for value in inputs], reader)
        if not problems:
            rows, problems = self.rows(items, reader, prompt, **kwargs)
        if problems:
            raise InputError(problems, scope="list" if isinstance(inputs[0], Item) else "batch")
        return self.collate(rows)

    def rows(
        self,
        items: Sequence[Item],
        reader: MediaReader,
        prompt: str | None = None,
        max_length: int | None = None,
        task: str | None = None,
    ) -> tuple[list[Row], list[Problem]]:
        """Decode and tokenize items, each for itself.

        Args:
            items: The items.
            reader: The reader of the call.
            prompt: A system message to put before each chat.
            max_length: Tokens to which the text of an item is cut.
            task: For templates that use it.

        Returns:
            The rows of the items that could be decoded, and the problems of the others.
        """
        template_kwargs = self._template_kwargs(reader.settings, task)
        limit = max_length or self._length_of(task) or reader.settings.get("text", {}).get("max_length")
        max_text_tokens = self.max_text_tokens
        rows: list[Row] = []
        texts: list[str] = []
        problems: list[Problem] = []
        for item in items:
            row = self.read(item, reader)
            if isinstance(row, Problem):
                problems.append(row)
                continue
            try:
                with one_item():
                    shown = self._with_system(item, prompt)
                    row.item = self._fit(shown, sum(map(len, row.media_ids)), max_text_tokens, limit, template_kwargs)
                    row.was_cut = row.item is not shown
                    texts.append(chat_template.render(self.processor, row.item, template_kwargs))
                    rows.append(row)
            except MediaError as error:
                problems.append(Problem(item.index, item.blocks[0].source, str(error)))
        good: list[Row] = []
        placeholders = self.placeholders
        for row, ids in zip(rows, chat_template.encode(self.tokenizer, texts), strict=True):
            written = sum(token in placeholders for token in ids)
            if written != len(row.media_ids):
                reason = f"the chat template writes {written} placeholders for its {len(row.media_ids)} media"
                problems.append(Problem(row.item.index, row.item.blocks[0].source, reason))
                continue
            row.input_ids = splice(ids, row.media_ids, placeholders) if row.media_ids else ids
            good.append(row)
        return good, problems

    def _length_of(self, task: str | None) -> int | None:
        """Return the limit of text tokens that the checkpoint states for queries or documents, if any."""
        limits: dict[str | None, int | None] = {"query": self.query_length, "document": self.document_length}
        return limits.get(task)

    @staticmethod
    def read(item: Item, reader: MediaReader) -> Row | Problem:
        """Decode the media of an item.

        Returns:
            A row with their features, whose text is yet to be tokenized; or why one of them can't be read.
        """
        row = Row(item, hears_video=False)
        source = item.blocks[0].source
        try:
            with one_item():
                row.hears_video = reader.hears_video(item)
                for block in item.media:
                    source = block.source
                    features = reader.features(block, row.hears_video and block.kind == "video")
                    row.media_ids.append(features.pop("input_ids"))
                    row.features.append(features)
        except MediaError as error:
            return Problem(item.index, source, str(error))
        return row

    @property
    def placeholders(self) -> set[int]:
        """The ids of the tokens that stand for one medium each in a rendered chat."""
        tokens = [getattr(self.processor, f"{kind}_token") for kind in self.backbone.kinds if kind != "text"]
        return set(self.tokenizer.convert_tokens_to_ids(tokens))

    def _template_kwargs(self, merged: ProcessingKwargs, task: str | None = None) -> dict[str, Any]:
        kwargs = {key: value for key, value in merged["chat_template"].items() if key != "restore_suffix"}
        template = self.processor.chat_template
        texts = template.values() if isinstance(template, dict) else [template]
        # Arguments that no template names are taken for those of the processor.
        return {"task": task, **kwargs} if task is not None and any("task" in text for text in texts) else kwargs

    @staticmethod
    def _with_system(item: Item, prompt: str | None) -> Item:
        if not prompt:
            return item
        return Item(item.index, (Message("system", (Block("text", prompt),)), *item.messages))

    def _fit(
        self, item: Item, media_tokens: int, most: int, limit: int | None, template_kwargs: dict[str, Any]
    ) -> Item:
        """Cut the text of an item to `most` tokens of the chat and to the limit; media and what is around are kept."""
        size = sum(len(block.value.encode()) for block in item.blocks if block.kind == "text")
        # No tokenizer makes more tokens than bytes, and the template takes less than so many for each message.
        is_short = size + media_tokens + TEMPLATE_TOKENS * len(item.messages) <= most
        if is_short and (limit is None or size <= limit):
            return item
        fixed = 0
        if not is_short:
            bare = Item(
                item.index,
                tuple(
                    message
                    if message.role == "system"
                    else Message(
                        message.role, tuple(Block("text", "") if b.kind == "text" else b for b in message.blocks)
                    )
                    for message in item.messages
                ),
            )
            fixed = len(
                chat_template.encode(self.tokenizer, [chat_template.render(self.processor, bare, template_kwargs)])[0]
            )
        context = self.context
        if fixed > context:
            raise MediaError(f"the prompt takes {fixed} tokens, more than the context of {context}; shorten it")
        if fixed + media_tokens > context:
            raise MediaError(
                f"its media take {media_tokens} tokens, more than the context of {context}; "
                "lower max_pixels or max_frames, or split it"
            )
        budget = min(most - fixed, context - fixed - media_tokens, limit or most)
        return chat_template.cut_text(self.tokenizer, item, max(budget, 1))

    def prefix(self, reader: MediaReader, prompt: str | None = None, task: str | None = None) -> list[int]:
        """Return the tokens with which every chat of a call begins, whatever is in it; the `prompt` is among them."""
        template_kwargs = self._template_kwargs(reader.settings, task)
        probes = [Item(0, (Message("user", (Block("text", text),)),)) for text in ("a", "z")]
        texts = [
            chat_template.render(self.processor, self._with_system(probe, prompt), template_kwargs) for probe in probes
        ]
        first, other = chat_template.encode(self.tokenizer, texts)
        return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, other, strict=False))]

    def cache_prefix(self, ids: list[int]) -> Cache:
        """Compute the keys and values of a prefix, for `inference_batch`."""
        return cache_prefix(self.model.get_submodule(self.backbone.decoder), ids)

    # --- batches ----------------------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Pad rows to one length and join the features of their media.

        Returns:
            What `preprocess` returns.
        """
        side = self.tokenizer.padding_side
        batch = self._pad(rows, side)
        if "mm_token_type_ids" in self.processor.model_input_names:
            types = self.processor.create_mm_token_type_ids([row.input_ids for row in rows])
            batch["mm_token_type_ids"] = pad([torch.tensor(row) for row in types], 0, side)
        for key, kind in (("pixel_values", "image"), ("pixel_values_videos", "video")):
            if key in batch:
                counts = [sum(block.kind == kind for block in row.item.blocks) for row in rows]
                batch[f"num_{kind}s_per_sample"] = torch.tensor(counts)
        if any(row.hears_video for row in rows):
            batch["row_position_ids"] = pad([self._positions(row) for row in rows], 1, side)
        return batch

    def inference_batch(self, rows: Sequence[Row], start: int = 0) -> dict[str, Any]:
        """Make a batch that is cheaper to run than that of `collate`, and gives the same embeddings.

        Padding is on the right, where causal attention keeps it from being seen, so that no mask is needed; and what
        stands before `start` is left out, for a prefix whose keys and values are cached (`features["prefix_cache"]`).

        Args:
            rows: The rows.
            start: How many tokens the cached prefix has, with which all rows begin.

        Returns:
            As `collate`, but for the tokens from `start` on; `is_right_padded` tells `forward` that no mask is needed.
        """
        batch = self._pad(rows, "right", start)
        if self.backbone.rotary_axes > 1:
            batch["row_position_ids"] = pad([self._positions(row)[:, start:] for row in rows], 1, "right")
        return {**batch, "is_right_padded": True}

    def _pad(self, rows: Sequence[Row], side: Literal["left", "right"], start: int = 0) -> dict[str, Any]:
        pad_id = self.tokenizer.pad_token_id
        ids = [torch.tensor(row.input_ids[start:]) for row in rows]
        return {
            # Padding is masked, so that where a tokenizer names no token for it, any will do.
            "input_ids": pad(ids, 0 if pad_id is None else pad_id, side),
            "attention_mask": pad([torch.ones_like(row) for row in ids], 0, side),
            "modality": "message",
            **join_features(entry for row in rows for entry in row.features),
        }

    def _positions(self, row: Row) -> Tensor:
        """Compute the positions of one row, of shape (3, tokens).

        Upstream decides for a whole batch whether videos are heard, and then miscounts those that are not.
        """
        if not row.features:
            return torch.arange(len(row.input_ids)).expand(3, -1)
        ids = torch.tensor([row.input_ids])
        features = join_features(row.features)
        mask = features.get("feature_attention_mask")
        known: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "image_grid_thw": features.get("image_grid_thw"),
            "video_grid_thw": features.get("video_grid_thw"),
            # What Qwen2.5-Omni calls them, and Qwen2.5-VL.
            "second_per_grids": features.get("video_second_per_grid"),
            "second_per_grid_ts": features.get("second_per_grid_ts"),
            "audio_seqlens": None if mask is None else mask.sum(-1),
            "use_audio_in_video": row.hears_video,
        }
        if "mm_token_type_ids" in self.processor.model_input_names:
            known["mm_token_type_ids"] = torch.tensor(self.processor.create_mm_token_type_ids([row.input_ids]))
        taken = signature(self.model.get_rope_index).parameters
        positions, _ = self.model.get_rope_index(**{key: value for key, value in known.items() if key in taken})
        return positions[:, 0].cpu()  # type: ignore[no-any-return]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the model on features of `preprocess` or `inference_batch`.

        Returns:
            The features with `token_embeddings`, the last hidden states, of shape (rows, tokens, dimension).
        """
        known = dict(features)
        positions = known.pop("row_position_ids", None)
        if positions is not None:
            kwargs["position_ids"] = positions.transpose(0, 1)
        if known.pop("is_right_padded", False):
            cache = known.pop("prefix_cache", None)
            kwargs |= {"past_key_values": cache, "attention_mask": None, "use_cache": False}
            features.update(super().forward(known, **kwargs))
            return features
        # What is asked for beyond embeddings, as the states of all layers, is of one pass; and where each process holds
        # a part of the weights, all have to make as many passes.
        if not kwargs and not isinstance(next(self.model.parameters()), DTensor):
            grouped = forward_by_length(super().forward, features)
            if grouped is not None:
                return grouped
        features.update(super().forward(known, **kwargs))
        return features
