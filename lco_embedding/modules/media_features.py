"""From a medium to the features that a tower reads and the tokens that stand for it, by the backbone's own processor.

Each medium goes through the processor alone: its rate and its length are its own, an error names it, and its tokens
take the place of its placeholder in the text afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import ProcessorMixin

from lco_embedding.modules import media
from lco_embedding.modules.backbones import Backbone
from lco_embedding.modules.inputs import Block, Item, Problem, one_item
from lco_embedding.modules.media import MediaError
from lco_embedding.modules.processing_settings import ProcessingKwargs, check_arguments, for_processor, sampling

MIN_AUDIO_FRAMES = 3
"""Mel frames below which the audio tower makes no token: its convolution and its pooling, of stride 2 each, leave
none."""

PIXELS_A_TOKEN = 28 * 28
CODEC_PADDING = 0.1
"""Seconds that a lossy codec may add to the longest audio; they are cut off."""

TOKENS_A_SECOND = 25
"""Tokens of audio in the Qwen2.5-Omni models; for estimates only."""


@dataclass(frozen=True)
class MediaReader:
    """Reads the media of one call, under its settings."""

    processor: ProcessorMixin
    backbone: Backbone
    settings: ProcessingKwargs

    def __post_init__(self) -> None:
        """Check that the processor takes the settings.

        Raises:
            ValueError: It does not know one, or not its value.
        """
        check_arguments(self.settings, self.processor, self.backbone)

    @property
    def hears(self) -> bool:
        """Whether the sound of videos is heard, where they have any."""
        return "audio" in self.backbone.kinds and bool(self.settings["video"].get("load_audio_from_video"))

    @property
    def max_seconds(self) -> float:
        """The longest audio that the model hears, in seconds."""
        extractor = self.processor.feature_extractor
        return float(extractor.n_samples / extractor.sampling_rate)

    def check(self, items: Sequence[Item]) -> tuple[list[Item], list[Problem]]:
        """Check items by the headers of their media, without decoding.

        Args:
            items: Items as `parse_inputs` makes them; those that are checked are passed through.

        Returns:
            The good items, whose blocks have their extents, and the problems of the others.
        """
        good: list[Item] = []
        problems: list[Problem] = []
        for item in items:
            if item.is_checked:
                good.append(item)
                continue
            source = ""
            try:
                with one_item():
                    messages = []
                    for message in item.messages:
                        blocks = []
                        for block in message.blocks:
                            source = block.source
                            blocks.append(self._checked(block))
                        messages.append(replace(message, blocks=tuple(blocks)))
                    good.append(Item(item.index, tuple(messages), is_checked=True))
            except MediaError as error:
                problems.append(Problem(item.index, source, str(error)))
        return good, problems

    def _checked(self, block: Block) -> Block:
        if block.kind not in self.backbone.kinds:
            raise MediaError(f"this model takes {', '.join(self.backbone.kinds)}, not {block.kind}")
        if block.kind == "text":
            return block
        checks = {"image": media.check_image, "audio": media.check_audio, "video": media.check_video}
        block = replace(block, extent=checks[block.kind](block.value))
        self._check_limits(block)
        return block

    def _check_limits(self, block: Block) -> None:
        """Check what the header of a medium tells against what the backbone takes.

        Raises:
            MediaError: The shape is too long, the audio or the sound of a video that is heard lasts too long, or that
                sound can't be used.
        """
        short, long = sorted((block.extent.width, block.extent.height))
        if short and long / short > self.backbone.max_aspect_ratio:
            raise MediaError(
                f"{block.extent.width} x {block.extent.height} pixels are longer than "
                f"{self.backbone.max_aspect_ratio:g} to 1; crop or pad the {block.kind}"
            )
        if self.backbone.size_is_area and self.settings.get(block.kind, {}).get("do_resize") is False:
            processor = self.processor.image_processor
            side = processor.patch_size * processor.merge_size
            if block.extent.width % side or block.extent.height % side:
                raise MediaError(
                    f"{block.extent.width} x {block.extent.height} pixels are no multiples of {side}, "
                    f"the side of a token, and do_resize of {block.kind} is False"
                )
        if block.kind == "audio" and not block.extent.is_estimate:
            self._check_seconds(block.extent.seconds)
        if block.kind == "video" and self.hears:
            self._check_seconds(media.check_sound_track(block.value).seconds)

    def estimate_tokens(self, item: Item) -> int:
        """Estimate from headers how many tokens an item will have, to batch like with like."""
        return sum(self._estimate(block) for block in item.blocks)

    def _estimate(self, block: Block) -> int:
        if block.kind == "text":
            return len(block.value) // 4 + 1
        extent = block.extent
        if block.kind == "audio":
            return int(extent.seconds * TOKENS_A_SECOND) + 1
        area = extent.width * extent.height
        if self.backbone.size_is_area:
            size = self.settings[block.kind]["size"]
            area = min(max(area, size["shortest_edge"]), size["longest_edge"])
        tokens = area // PIXELS_A_TOKEN + 1
        if block.kind == "image":
            return tokens
        chosen = sampling(self.settings, self.backbone)
        sampled = int(extent.seconds * chosen.fps) if extent.seconds else extent.frames
        frames = min(max(sampled, chosen.min_frames), chosen.max_frames)
        return tokens * frames // self.backbone.frame_multiple

    def hears_video(self, item: Item) -> bool:
        """Tell whether some video of the item is to be heard, and has something to hear."""
        return self.hears and any(block.kind == "video" and media.has_sound_track(block.value) for block in item.media)

    def features(self, block: Block, with_sound: bool) -> dict[str, Any]:
        """Decode a medium.

        Args:
            block: Image, audio or video.
            with_sound: Whether a video is heard.

        Returns:
            Tensors with one entry for each medium (or patch) along their first axis, under the names that the model
            takes, and `input_ids`, the list of token ids that stand for the medium.

        Raises:
            MediaError: It can't be decoded, or is too long or too short.
        """
        if block.kind == "image":
            call: dict[str, Any] = {"text": [self.processor.image_token], "images": [media.load_image(block.value)]}
        elif block.kind == "audio":
            call = {"text": [self.processor.audio_token], **self._heard(block.value)}
        else:
            call = {"text": [self.processor.video_token], **self._seen(block.value, with_sound)}
        images = for_processor(self.settings, "image")
        text = {"add_special_tokens": False, "verbose": False}
        try:
            output = self.processor(**call, images_kwargs=images, text_kwargs=text, return_tensors="pt")
        except ValueError as error:
            raise MediaError(str(error)) from error
        unused = ("attention_mask", "mm_token_type_ids", "video_metadata")
        kept = {key: value for key, value in output.items() if key not in unused}
        return {**kept, "input_ids": kept["input_ids"][0].tolist()}

    def _seen(self, value: Any, with_sound: bool) -> dict[str, Any]:
        pixels = self.settings["video"]["size"]["longest_edge"]
        clip = media.load_video(value, sampling(self.settings, self.backbone), pixels)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        metadata = {"total_num_frames": len(frames), "fps": clip.fps, "frames_indices": list(range(len(frames)))}
        kwargs = {
            **for_processor(self.settings, "video"),
            "fps": clip.fps,
            "do_sample_frames": False,
            "video_metadata": [metadata],
        }
        sound = self._heard_in_video(value, clip) if with_sound else {}
        return {"videos": [frames], "videos_kwargs": kwargs, **sound}

    def _heard(self, value: Any) -> dict[str, Any]:
        # A little more than can be heard, so that what is too long shows.
        rate = self.processor.feature_extractor.sampling_rate
        return self._waveform(media.load_audio(value, rate, self.max_seconds + 1))

    def _heard_in_video(self, value: Any, clip: media.Clip) -> dict[str, Any]:
        rate = self.processor.feature_extractor.sampling_rate
        samples = media.load_sound_track(value, rate, self.max_seconds + 1, clip.start)
        if samples is None:
            # Beside a video that is heard, one without sound is silent: positions are computed for a whole chat.
            seconds = len(clip.frames) / clip.fps
            samples = np.zeros(int(min(seconds, self.max_seconds) * rate), dtype=np.float32)
        return {**self._waveform(samples), "audio_from_video_indices": [0], "load_audio_from_video": True}

    def _waveform(self, samples: NDArray[np.float32]) -> dict[str, Any]:
        extractor = self.processor.feature_extractor
        self._check_seconds(len(samples) / extractor.sampling_rate)
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
        kwargs = {
            **for_processor(self.settings, "audio"),
            "sampling_rate": extractor.sampling_rate,
            "truncation": True,
            "max_length": min(padded, extractor.n_samples),
        }
        return {"audio": [samples], "audio_kwargs": kwargs}

    def _check_seconds(self, seconds: float) -> None:
        if seconds > self.max_seconds + CODEC_PADDING and not self.settings.get("audio", {}).get("truncation"):
            raise MediaError(
                f"{seconds:.1f} s of audio are longer than the {self.max_seconds:g} s that the model hears; "
                'split it, or cut it with processing_kwargs={"audio": {"truncation": True}}'
            )


def splice(ids: Sequence[int], media_ids: Sequence[Sequence[int]], placeholders: set[int]) -> list[int]:
    """Return token ids with those of each medium in the place of its single placeholder."""
    media = iter(media_ids)
    spliced: list[int] = []
    for token in ids:
        spliced.extend(next(media) if token in placeholders else (token,))
    return spliced
