"""The architecture of the miniature: a Qwen2.5-Omni thinker of about 1.4 M parameters, with its real processor.

Everything is of the upstream classes; only the sizes are small. [`build`] writes a generative checkpoint with
random weights, which pretraining then fills. The sizes follow from the world the miniature lives in: images of
84 x 84 pixels make 3 x 3 tokens, sounds of a second make 12.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

SPECIAL_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
"""Names under which the Qwen2.5-Omni processor asks its tokenizer for the media tokens."""

CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# The tokens of Qwen's vocabulary that are written without the "special" flag, yet parsed as one token.
ADDED_TOKENS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

# Qwen2's split: contractions, words with at most one leading mark, single digits, punctuation, line breaks, spaces.
PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- if messages and messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for block in message['content'] -%}
{%- if block['type'] == 'image' -%}
{{- '<|vision_bos|><|IMAGE|><|vision_eos|>' -}}
{%- elif block['type'] == 'audio' -%}
{{- '<|audio_bos|><|AUDIO|><|audio_eos|>' -}}
{%- elif block['type'] == 'video' -%}
{{- '<|vision_bos|><|VIDEO|><|vision_eos|>' -}}
{%- elif block['type'] == 'text' -%}
{{- block['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

IMAGE_SIZE = {"shortest_edge": 28 * 28, "longest_edge": 168 * 168}
VIDEO_SIZE = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
"""Smallest and largest area of an image and of a video frame, in pixels."""


INITIALIZER_RANGE = 0.04
"""Standard deviation of the random weights: at the upstream 0.02, layers this narrow hardly change what they read."""


def build_tokenizer(corpus: Iterable[str], vocab_size: int = 1280) -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer with Qwen's splitting rules and special tokens.

    Args:
        corpus: Texts to learn the merges from. Any byte can be written whatever they hold.
        vocab_size: Number of tokens before the special ones, at least 256.

    Returns:
        The tokenizer, with the token names that the Qwen2.5-Omni processor expects.
    """
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[],
    )
    backend.train_from_iterator(corpus, trainer)
    tokenizer = Qwen2Tokenizer(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=dict(SPECIAL_TOKENS),
        model_max_length=4096,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(CHAT_TOKENS)}, replace_extra_special_tokens=False)
    tokenizer.add_tokens(list(ADDED_TOKENS))
    return tokenizer


def build_processor(corpus: Iterable[str], vocab_size: int = 1280) -> Qwen2_5OmniProcessor:
    """Build the processor of the miniature: tokenizer, image, video and audio features, chat template."""
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=IMAGE_SIZE),
        video_processor=Qwen2VLVideoProcessor(size=VIDEO_SIZE, cap_pixels_per_frame=False),
        feature_extractor=WhisperFeatureExtractor(feature_size=64, hop_length=320, n_fft=800, chunk_length=300),
        tokenizer=build_tokenizer(corpus, vocab_size),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(processor: Qwen2_5OmniProcessor) -> Qwen2_5OmniThinkerConfig:
    """Return the thinker configuration for `processor`, with the token ids of its tokenizer."""
    token_id = processor.tokenizer.convert_tokens_to_ids
    hidden_size, heads = 128, 4
    return Qwen2_5OmniThinkerConfig(
        initializer_range=INITIALIZER_RANGE,
        audio_config={
            "initializer_range": INITIALIZER_RANGE,
            "num_mel_bins": processor.feature_extractor.feature_size,
            "d_model": 64,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 192,
            "output_dim": hidden_size,
            "max_source_positions": 1500,
            "n_window": 100,
        },
        vision_config={
            "initializer_range": INITIALIZER_RANGE,
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": hidden_size,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2],
        },
        text_config={
            "initializer_range": INITIALIZER_RANGE,
            "vocab_size": -(-len(processor.tokenizer) // 64) * 64,
            "hidden_size": hidden_size,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "pad_token_id": processor.tokenizer.pad_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id,
        },
        tie_word_embeddings=True,
        audio_token_index=token_id("<|AUDIO|>"),
        image_token_index=token_id("<|IMAGE|>"),
        video_token_index=token_id("<|VIDEO|>"),
        audio_start_token_id=token_id("<|audio_bos|>"),
        audio_end_token_id=token_id("<|audio_eos|>"),
        vision_start_token_id=token_id("<|vision_bos|>"),
        vision_end_token_id=token_id("<|vision_eos|>"),
        user_token_id=token_id("<|im_start|>"),
    )


def build(folder: str | Path, corpus: Iterable[str], seed: int = 0, vocab_size: int = 1280) -> Path:
    """Write a generative checkpoint with random weights: `Qwen2_5OmniThinkerForConditionalGeneration`.

    Args:
        folder: Where to write; made if missing.
        corpus: Texts to train the tokenizer on.
        seed: Seed of the weights.
        vocab_size: Number of tokens before the special ones.

    Returns:
        The folder.
    """
    processor = build_processor(corpus, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(build_config(processor))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
