"""The third room: an omnimodal LLM as a Sentence Transformers module, from checked inputs to hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from sentence_transformers.base.modules import Transformer
from sentence_transformers.base.modules.transformer import set_temporary_class_attrs
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from lco_embedding.modules import media, prompts
from lco_embedding.modules.backbones import Backbone, embedding_config, find_backbone
from lco_embedding.modules.inputs import Block, InputError, Item, Message, Problem, sort_inputs
from lco_embedding.modules.media import MediaError, Sampling

logger = transformers_logging.get_logger(__name__)

MAX_IMAGE_PIXELS = 1280 * 28 * 28
"""Default cap of an image in pixels, 1,280 tokens of the Qwen towers."""

MAX_FRAME_PIXELS = 768 * 28 * 28
"""Default cap of a video frame in pixels, that of the Qwen2.5-Omni processor."""

MIN_AUDIO_FRAMES = 3
"""Mel frames below which the audio tower makes no token: two convolutions of stride 2 leave none."""

ProcessingKwargs = dict[str, dict[str, Any]]


@dataclass
class Row:
    """One item, ready to be put into a batch: token ids and the features of its media, without padding."""

    item: Item
    input_ids: list[int]
    features: list[dict[str, Tensor]] = field(default_factory=list)
    has_sound_in_video: bool = False
    was_cut: bool = False


class OmniTransformer(Transformer):  # type: ignore[misc]
    """An omnimodal LLM without its language head, which turns mixed inputs into hidden states.

    It reads what `sentence_transformers.base.modules.Transformer` reads and is saved as that, and adds raw backbones
    (of a larger model only the part that embeds is loaded), LCO prompts for them, inputs of any kind that are checked
    before they are decoded, and text that never becomes a control token.

    Args:
        model_name_or_path: Folder or Hub id of a checkpoint.
        processing_kwargs: Settings of the processing, saved with the checkpoint; see `processing_kwargs` below.
        **kwargs: As in `Transformer`: `model_kwargs`, `processor_kwargs`, `config_kwargs`, `max_seq_length`, ...

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
        self.backbone: Backbone = find_backbone(self.config)
        self._source = (model_name_or_path, kwargs.get("model_kwargs") or {})
        self.tokenizer.padding_side = "left"
        self.processing_kwargs = self._with_defaults(self.processing_kwargs)
        if self.processor.chat_template is None:
            raise ValueError(f"{model_name_or_path} has no chat template; pass one in processor_kwargs")

    # --- loading and saving -----------------------------------------------------------------------------------------

    def _load_config(
        self, model_name_or_path: str, backend: str, config_kwargs: dict[str, Any]
    ) -> tuple[PretrainedConfig, bool]:
        config, is_peft_model = super()._load_config(model_name_or_path, backend, config_kwargs)
        return embedding_config(config), is_peft_model

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: Any,
        config: PretrainedConfig,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> PreTrainedModel:
        # The language head is left in its file by design, so its absence is not to be reported at every load.
        model_class = MODEL_MAPPING[type(config)]
        ignored = [*(model_class._keys_to_ignore_on_load_unexpected or []), r"lm_head\.weight$"]
        with set_temporary_class_attrs(model_class, _keys_to_ignore_on_load_unexpected=ignored):
            return super()._load_model(
                model_name_or_path, transformer_task, config, backend, is_peft_model, **model_kwargs
            )

    def add_prompts(self) -> None:
        """Make the chat template append the LCO prompts, unless it does so already."""
        if prompts.has_prompts(self.processor, self._template_kwargs(self.processing_kwargs)):
            return
        template = self.processor.chat_template
        if isinstance(template, dict):
            template = {**template, "default": prompts.with_prompts(template["default"])}
        self.processor.chat_template = template if isinstance(template, dict) else prompts.with_prompts(template)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write model, processor and settings in the generation layout, which any loader of the family reads.

        The language head is copied from the checkpoint that the model came from, if that has one and can be read.
        A model with an adapter is saved as Sentence Transformers saves it: the adapter alone.

        Raises:
            ValueError: `safe_serialization` is False: only safetensors are written.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickled weights; only safetensors are written")
        if getattr(self.model, "_hf_peft_config_loaded", False):
            super().save(output_path, *args, **kwargs)
            return
        import transformers

        generation_class = getattr(transformers, self.backbone.generation_class)
        with torch.device("meta"):
            whole = generation_class(self.config)
        whole.model = self.model
        if not self.config.tie_word_embeddings:
            head = self._read_head()
            if head is not None:
                whole.lm_head.weight = nn.Parameter(head.to(self.model.dtype), requires_grad=False)
        whole.tie_weights()
        state = {key: value for key, value in whole.state_dict().items() if not value.is_meta}
        whole.save_pretrained(output_path, state_dict=state)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    def _read_head(self) -> Tensor | None:
        """Read the language head from the checkpoint the model was loaded from; None if there is none."""
        name, model_kwargs = self._source
        hub = {
            key: value
            for key, value in model_kwargs.items()
            if key in ("cache_dir", "token", "revision", "local_files_only", "subfolder") and value is not None
        }
        for candidate in (SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME):
            path = cached_file(name, candidate, _raise_exceptions_for_missing_entries=False, **hub)
            if path is None:
                continue
            if candidate == SAFE_WEIGHTS_INDEX_NAME:
                import json

                with open(path, encoding="utf8") as file:
                    weight_map: dict[str, str] = json.load(file)["weight_map"]
                shards = {shard for key, shard in weight_map.items() if key.endswith("lm_head.weight")}
                paths = [cached_file(name, shard, **hub) for shard in shards]
            else:
                paths = [path]
            for shard_path in paths:
                with safe_open(shard_path, framework="pt") as tensors:
                    for key in ("lm_head.weight", "thinker.lm_head.weight", "language_model.lm_head.weight"):
                        if key in tensors.keys():  # noqa: SIM118 - a file handle, not a dict
                            return tensors.get_tensor(key)
        return None

    # --- settings ---------------------------------------------------------------------------------------------------

    def _with_defaults(self, settings: ProcessingKwargs) -> ProcessingKwargs:
        """Fill in the defaults and turn `max_pixels` and `min_pixels` into the processor's own `size`."""
        settings = {key: dict(value) for key, value in settings.items()}
        settings.setdefault("chat_template", {}).setdefault("add_generation_prompt", True)
        image = settings.setdefault("image", {})
        if self.backbone.size_is_area:
            _set_area(image, self.processor.image_processor.size, MAX_IMAGE_PIXELS)
        if "video" in self.backbone.kinds:
            video = settings.setdefault("video", {})
            # A processor class may override the size that its checkpoint states for videos.
            size = (self.processor.videos_kwargs or {}).get("size") or self.processor.video_processor.size
            _set_area(video, size, MAX_FRAME_PIXELS)
            for key, value in (("fps", 2.0), ("min_frames", 4), ("max_frames", 64), ("do_sample_frames", True)):
                video.setdefault(key, value)
        return settings

    def _settings(self, per_call: ProcessingKwargs | None) -> ProcessingKwargs:
        if not per_call:
            return self.processing_kwargs
        unknown = sorted(set(per_call) - self._VALID_PROCESSING_KWARGS_KEYS)
        if unknown:
            raise ValueError(
                f"unknown processing_kwargs {unknown}; expected some of {sorted(self._VALID_PROCESSING_KWARGS_KEYS)}"
            )
        settings = {key: dict(value) for key, value in self._merge_processing_kwargs(per_call).items()}
        for kind in ("image", "video"):
            if kind in self.backbone.kinds and self.backbone.size_is_area:
                _set_area(settings[kind], settings[kind]["size"], None)
        return settings

    def _template_kwargs(self, settings: ProcessingKwargs, task: str | None = None) -> dict[str, Any]:
        kwargs = {key: value for key, value in settings["chat_template"].items() if key != "restore_suffix"}
        return {"task": task, **kwargs} if task is not None and self._chat_template_declares_task() else kwargs

    def _sampling(self, settings: ProcessingKwargs) -> Sampling:
        video = settings["video"]
        return Sampling(video["fps"], video["min_frames"], video["max_frames"], self.backbone.frame_multiple)

    @property
    def max_text_tokens(self) -> int:
        """Tokens that a chat may hold: the checkpoint's `max_seq_length`, at most the context of the decoder."""
        context = self.config.get_text_config().max_position_embeddings
        return min(self.tokenizer.model_max_length or context, context)

    @property
    def max_audio_seconds(self) -> float:
        """The longest audio that the model hears, in seconds."""
        extractor = self.processor.feature_extractor
        return float(extractor.n_samples / extractor.sampling_rate)

    # --- input ------------------------------------------------------------------------------------------------------

    def sort(
        self, inputs: Sequence[Any], processing_kwargs: ProcessingKwargs | None = None
    ) -> tuple[list[Item], list[Problem]]:
        """Sort inputs into items, checking types, paths and headers but decoding nothing.

        Returns:
            The good items with their indices, and the problems of the others.
        """
        settings = self._settings(processing_kwargs)
        return sort_inputs(inputs, self.backbone.kinds, lambda block: self._check(block, settings))

    def _check(self, block: Block, settings: ProcessingKwargs) -> None:
        short, long = sorted((block.extent.width, block.extent.height))
        if short and long / short > self.backbone.max_aspect_ratio:
            raise MediaError(
                f"{block.extent.width} x {block.extent.height} pixels are longer than "
                f"{self.backbone.max_aspect_ratio:g} to 1; crop or pad the {block.kind}"
            )
        if block.kind == "audio":
            self._check_seconds(block.extent.seconds, settings)

    def _check_seconds(self, seconds: float, settings: ProcessingKwargs) -> None:
        if seconds > self.max_audio_seconds and not settings.get("audio", {}).get("truncation"):
            raise MediaError(
                f"{seconds:.1f} s of audio are longer than the {self.max_audio_seconds:g} s that the model hears; "
                'split it, or cut it with processing_kwargs={"audio": {"truncation": True}}'
            )

    def estimate_tokens(self, item: Item, processing_kwargs: ProcessingKwargs | None = None) -> int:
        """Estimate from headers how many tokens an item will have, to batch like with like."""
        settings = self._settings(processing_kwargs)
        return sum(self._estimate(block, settings) for block in item.blocks)

    def _estimate(self, block: Block, settings: ProcessingKwargs) -> int:
        if block.kind == "text":
            return len(block.value) // 4 + 1
        extent = block.extent
        if block.kind == "audio":
            return int(extent.seconds * 25) + 1
        area = extent.width * extent.height
        if self.backbone.size_is_area:
            size = settings[block.kind]["size"]
            area = min(max(area, size["shortest_edge"]), size["longest_edge"])
        tokens = area // (28 * 28) + 1
        if block.kind == "image":
            return tokens
        sampling = self._sampling(settings)
        return tokens * min(int(extent.seconds * sampling.fps) + sampling.min_frames, sampling.max_frames) // 2

    # --- features ---------------------------------------------------------------------------------------------------

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Turn inputs into a batch of features.

        Args:
            inputs: Anything that `sort_input` of `lco_embedding.modules.inputs` takes, or items.
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
        items, problems = self.sort(inputs, processing_kwargs)
        if not problems:
            rows, problems = self.rows(items, prompt, processing_kwargs, **kwargs)
        if problems:
            raise InputError(problems)
        return self.collate(rows)

    def rows(
        self,
        items: Sequence[Item],
        prompt: str | None = None,
        processing_kwargs: ProcessingKwargs | None = None,
        max_length: int | None = None,
        task: str | None = None,
    ) -> tuple[list[Row], list[Problem]]:
        """Decode and tokenize items, each for itself.

        Returns:
            The rows of the items that could be decoded, and the problems of the others.
        """
        settings = self._settings(processing_kwargs)
        template_kwargs = self._template_kwargs(settings, task)
        limit = max_length or settings.get("text", {}).get("max_length")
        rows: list[Row] = []
        problems: list[Problem] = []
        for item in items:
            source = "text"
            features: list[dict[str, Any]] = []
            sounds = self._sounds(item, settings)
            try:
                for block in item.media:
                    source = block.source
                    features.append(self._media_features(block, settings, sounds and block.kind == "video"))
                source = item.blocks[0].source
                media_tokens = sum(len(entry["input_ids"]) for entry in features)
                shown = self._with_system(item, prompt)
                fitted = self._fit(shown, media_tokens, limit, template_kwargs)
            except MediaError as error:
                problems.append(Problem(item.index, source, str(error)))
                continue
            rows.append(Row(fitted, [], features, sounds, was_cut=fitted is not shown))
        texts = [prompts.render(self.processor, row.item, template_kwargs) for row in rows]
        for row, ids in zip(rows, prompts.encode(self.tokenizer, texts) if texts else [], strict=True):
            row.input_ids = self._splice(ids, row.features)
        return rows, problems

    def _with_system(self, item: Item, prompt: str | None) -> Item:
        if not prompt:
            return item
        return Item(item.index, (Message("system", (Block("text", prompt),)), *item.messages))

    def _fit(self, item: Item, media_tokens: int, limit: int | None, template_kwargs: dict[str, Any]) -> Item:
        """Cut the text of an item to the limits; what is around it, and media, are never cut."""
        size = sum(len(block.value.encode(errors="ignore")) for block in item.blocks if block.kind == "text")
        fixed = 0
        # No tokenizer makes more tokens than bytes, and prompts and template of all backbones take less than 256.
        if size + media_tokens + 256 > self.max_text_tokens:
            bare = Item(
                item.index,
                tuple(
                    Message(message.role, tuple(Block("text", "") if b.kind == "text" else b for b in message.blocks))
                    for message in item.messages
                ),
            )
            fixed = len(prompts.encode(self.tokenizer, [prompts.render(self.processor, bare, template_kwargs)])[0])
        context = self.config.get_text_config().max_position_embeddings
        if fixed + media_tokens > context:
            raise MediaError(
                f"its media take {media_tokens} tokens, more than the context of {context}; "
                "lower max_pixels or max_frames, or split it"
            )
        budget = min(self.max_text_tokens - fixed, context - fixed - media_tokens, limit or self.max_text_tokens)
        return prompts.cut_text(self.tokenizer, item, max(budget, 1))

    def _sounds(self, item: Item, settings: ProcessingKwargs) -> bool:
        """Tell whether some video of the item is to be heard."""
        if "audio" not in self.backbone.kinds or not settings["video"].get("load_audio_from_video"):
            return False
        return any(block.kind == "video" and media.has_sound_track(block.value) for block in item.media)

    def _media_features(self, block: Block, settings: ProcessingKwargs, with_sound: bool) -> dict[str, Any]:
        """Decode one medium and compute its features and `input_ids`, the tokens that stand for it in the text."""
        call: dict[str, Any] = {"images_kwargs": _processor_kwargs(settings, "image")}
        if block.kind == "image":
            call |= {"text": [self.processor.image_token], "images": [media.load_image(block.value)]}
        elif block.kind == "audio":
            call |= {"text": [self.processor.audio_token], **self._heard(block.value, settings)}
        else:
            call |= self._seen(block.value, settings)
            if with_sound:
                call |= self._heard_in_video(block.value, len(call["videos"][0]) / call["videos_kwargs"]["fps"], settings)
        try:
            output = dict(self.processor(**call, text_kwargs={"add_special_tokens": False}, return_tensors="pt"))
        except ValueError as error:
            raise MediaError(str(error)) from error
        ids = output.pop("input_ids")[0].tolist()
        unused = ("attention_mask", "mm_token_type_ids", "video_metadata")
        return {"input_ids": ids, **{key: value for key, value in output.items() if key not in unused}}

    def _seen(self, value: Any, settings: ProcessingKwargs) -> dict[str, Any]:
        pixels = settings["video"]["size"]["longest_edge"]
        clip = media.load_video(value, self._sampling(settings), pixels)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        metadata = {"total_num_frames": len(frames), "fps": clip.fps, "frames_indices": list(range(len(frames)))}
        kwargs = _processor_kwargs(settings, "video") | {
            "fps": clip.fps,
            "do_sample_frames": False,
            "video_metadata": [metadata],
        }
        return {"text": [self.processor.video_token], "videos": [frames], "videos_kwargs": kwargs}

    def _heard(self, value: Any, settings: ProcessingKwargs) -> dict[str, Any]:
        rate = self.processor.feature_extractor.sampling_rate
        # A little more than can be heard, so that what is too long shows.
        samples = media.load_audio(value, rate, self.max_audio_seconds + 1)
        return self._waveform_call(samples, settings)

    def _heard_in_video(self, value: Any, seconds: float, settings: ProcessingKwargs) -> dict[str, Any]:
        rate = self.processor.feature_extractor.sampling_rate
        samples = media.load_sound_track(value, rate, self.max_audio_seconds + 1)
        if samples is None:
            # Beside a video that is heard, one without sound is silent: positions are computed for a whole chat.
            samples = torch.zeros(int(min(seconds, self.max_audio_seconds) * rate)).numpy()
        call = self._waveform_call(samples, settings)
        return call | {"audio_from_video_indices": [0], "load_audio_from_video": True}

    def _waveform_call(self, samples: Any, settings: ProcessingKwargs) -> dict[str, Any]:
        extractor = self.processor.feature_extractor
        self._check_seconds(len(samples) / extractor.sampling_rate, settings)
        samples = samples[: extractor.n_samples]
        shortest = (MIN_AUDIO_FRAMES - 1) * extractor.hop_length + 1
        if len(samples) < shortest:
            raise MediaError(
                f"{len(samples)} samples of audio are too short: the model hears nothing below "
                f"{shortest} samples ({1000 * shortest / extractor.sampling_rate:.0f} ms)"
            )
        # The processor pads every clip to 300 s of spectrogram and masks it off again. One window of zeros is what
        # the frames of the clip can see of that padding.
        padded = math.ceil((len(samples) + extractor.n_fft) / extractor.hop_length) * extractor.hop_length
        kwargs = {**_processor_kwargs(settings, "audio"), "sampling_rate": extractor.sampling_rate, "truncation": True}
        return {"audio": [samples], "audio_kwargs": kwargs | {"max_length": min(padded, extractor.n_samples)}}

    def _splice(self, ids: list[int], features: Sequence[dict[str, Any]]) -> list[int]:
        """Put the tokens of each medium in the place of its single placeholder, and take them out of `features`."""
        if not features:
            return ids
        placeholders = {
            getattr(self.processor, f"{kind}_token_id", None) for kind in self.backbone.kinds if kind != "text"
        }
        spliced: list[int] = []
        media_ids = iter([entry.pop("input_ids") for entry in features])
        for token in ids:
            spliced.extend(next(media_ids) if token in placeholders else [token])
        return spliced

    # --- batches ----------------------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Pad rows to one length and join the features of their media.

        Returns:
            What `preprocess` returns.
        """
        pad_id = self.tokenizer.pad_token_id
        if pad_id is None:
            pad_id = 0  # masked, so any token will do
        batch: dict[str, Any] = {
            "input_ids": self._pad([torch.tensor(row.input_ids) for row in rows], pad_id),
            "attention_mask": self._pad([torch.ones(len(row.input_ids), dtype=torch.long) for row in rows], 0),
            "modality": "message",
        }
        if "mm_token_type_ids" in self.processor.model_input_names:
            types = self.processor.create_mm_token_type_ids([row.input_ids for row in rows])
            batch["mm_token_type_ids"] = self._pad([torch.tensor(entry) for entry in types], 0)
        joined: dict[str, list[Tensor]] = {}
        for row in rows:
            for entry in row.features:
                for key, value in entry.items():
                    joined.setdefault(key, []).append(torch.as_tensor(value))
        batch |= {key: _concatenate(values) for key, values in joined.items()}
        for key, kind in (("pixel_values", "image"), ("pixel_values_videos", "video")):
            if key in batch:
                counts = [sum(block.kind == kind for block in row.item.blocks) for row in rows]
                batch[f"num_{kind}s_per_sample"] = torch.tensor(counts)
        if any(row.has_sound_in_video for row in rows):
            positions = [self._positions(row) for row in rows]
            batch["row_position_ids"] = self._pad(positions, 1)
        return batch

    def _pad(self, tensors: Sequence[Tensor], value: int) -> Tensor:
        """Stack tensors of shape (..., tokens), padded on the tokenizer's side."""
        length = max(tensor.shape[-1] for tensor in tensors)
        left = self.tokenizer.padding_side == "left"
        return torch.stack(
            [
                nn.functional.pad(tensor, (gap, 0) if left else (0, gap), value=value)
                for tensor in tensors
                for gap in [length - tensor.shape[-1]]
            ]
        )

    def _positions(self, row: Row) -> Tensor:
        """Compute the positions of one row, of shape (3, tokens).

        Upstream decides for a whole batch whether videos are heard, and then miscounts those that are not.
        """
        ids = torch.tensor([row.input_ids])
        features: dict[str, list[Tensor]] = {}
        for entry in row.features:
            for key, value in entry.items():
                features.setdefault(key, []).append(torch.as_tensor(value))

        def joined(key: str) -> Tensor | None:
            return torch.cat(features[key]) if key in features else None

        masks = [mask.sum(-1) for mask in features.get("feature_attention_mask", [])]
        positions, _ = self.model.get_rope_index(
            ids,
            joined("image_grid_thw"),
            joined("video_grid_thw"),
            torch.ones_like(ids),
            row.has_sound_in_video,
            torch.cat(masks) if masks else None,
            joined("video_second_per_grid"),
        )
        return positions[:, 0].cpu()  # type: ignore[no-any-return]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the model on features of `preprocess`.

        Returns:
            The features with `token_embeddings`, the last hidden states, of shape (rows, tokens, dimension).
        """
        positions = features.pop("row_position_ids", None)
        if positions is None:
            return super().forward(features, **kwargs)  # type: ignore[no-any-return]
        output = super().forward(features, position_ids=positions.transpose(0, 1), **kwargs)
        return {**output, "row_position_ids": positions}


def _set_area(settings: dict[str, Any], size: Any, cap: int | None) -> None:
    """Write `max_pixels` and `min_pixels` of `settings`, or the defaults, into its `size`."""
    size = dict(size)
    chosen = dict(settings.get("size") or {})
    longest = settings.pop("max_pixels", None) or chosen.get("longest_edge") or size["longest_edge"]
    shortest = settings.pop("min_pixels", None) or chosen.get("shortest_edge") or size["shortest_edge"]
    if cap is not None and not chosen:
        longest = min(longest, cap) if longest == size["longest_edge"] else longest
    if longest <= 0 or shortest <= 0:
        raise ValueError(f"max_pixels and min_pixels must be positive, got {longest} and {shortest}")
    settings["size"] = {"shortest_edge": min(shortest, longest), "longest_edge": longest}


def _processor_kwargs(settings: ProcessingKwargs, kind: str) -> dict[str, Any]:
    """Return the settings of a kind that are for its processor rather than for the decoding before it."""
    ours = ("fps", "min_frames", "max_frames", "do_sample_frames", "load_audio_from_video", "truncation", "padding")
    return {key: value for key, value in settings.get(kind, {}).items() if key not in ours}


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors along their first axis, padding the others with zeros to the longest."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        gaps = [gap for size, own in zip(reversed(shape), reversed(tensor.shape[1:]), strict=True) for gap in (0, size - own)]
        padded.append(nn.functional.pad(tensor, gaps) if any(gaps) else tensor)
    return torch.cat(padded)
