"""What the benchmarks share: a random Qwen2.5-Omni thinker of some size, made-up texts, and the machine they run on."""

from __future__ import annotations

import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate")

VOCABULARY = 151_936
WORDS = 4000
"""Different words of the texts, made of syllables; the tokenizer makes about 1.4 tokens of each."""

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "text": {"hidden_size": 512, "intermediate_size": 2752, "num_hidden_layers": 8, "num_attention_heads": 8},
        "vision": {"hidden_size": 320, "intermediate_size": 860, "depth": 8, "num_heads": 4},
        "audio": {"d_model": 320, "encoder_ffn_dim": 1280, "encoder_layers": 8, "encoder_attention_heads": 5},
    },
    "3b": {
        "text": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
        "vision": {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16},
        "audio": {"d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32, "encoder_attention_heads": 20},
    },
    "7b": {
        "text": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
        "vision": {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16},
        "audio": {"d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32, "encoder_attention_heads": 20},
    },
}
"""Widths and depths: those of Qwen2.5-Omni 3B and 7B, and a small one for CPUs, whose towers are scaled alike."""

VOCABULARY = 151_936
WORDS = 4000
"""Different words of the texts, made of syllables; the tokenizer makes about 1.4 tokens of each."""


def make_words() -> list[str]:
    """Return made-up words of one to four syllables, none twice; always the same."""
    rng = np.random.default_rng(2)
    syllables = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s", "l")]
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(rng.choice(syllables, rng.integers(1, 5)))] = None
    return list(words)


def make_text(words: list[str], count: int, rng: np.random.Generator) -> str:
    """Return a text of so many words, frequent ones more often, as in a language."""
    ranks = np.minimum(rng.zipf(1.3, count) - 1, WORDS - 1)
    return " ".join(words[rank] for rank in ranks).capitalize() + "."


def build_model(folder: Path, size: str, device: str) -> None:
    """Write a random LCO model as a plain checkpoint, in float32 for the CPU and in bfloat16 for accelerators.

    Args:
        folder: Where to.
        size: One of `SIZES`.
        device: What it is for.
    """
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        WhisperFeatureExtractor,
    )

    from lco_embedding import LCOEmbedding
    from lco_embedding.miniature.architecture import CHAT_TEMPLATE, build_tokenizer

    words, rng = make_words(), np.random.default_rng(0)
    # The words of the template and the prompts are single tokens, as they are in a real vocabulary.
    spoken = (
        "system You are a helpful assistant. user assistant Summarize the above text image audio video in one word:"
    )
    corpus = [make_text(words, 50, rng) for _ in range(2000)] + [spoken] * 500
    tokenizer = build_tokenizer(corpus, vocab_size=8000)
    tokenizer.model_max_length = 32_768
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 1280 * 28 * 28}),
        video_processor=Qwen2VLVideoProcessor(size={"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, hop_length=160, n_fft=400, chunk_length=300),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    parts, token_id = SIZES[size], tokenizer.convert_tokens_to_ids
    hidden, heads = parts["text"]["hidden_size"], parts["text"]["num_attention_heads"]
    half = hidden // heads // 2
    sections = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    config = Qwen2_5OmniThinkerConfig(
        text_config={
            **parts["text"],
            "vocab_size": VOCABULARY,
            "num_key_value_heads": 4 if size == "7b" else 2,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **parts["vision"],
            "out_hidden_size": hidden,
            "window_size": 112,
            "fullatt_block_indexes": list(range(parts["vision"]["depth"] // 4 - 1, 99, parts["vision"]["depth"] // 4)),
        },
        audio_config={**parts["audio"], "output_dim": hidden, "num_mel_bins": 128, "n_window": 100},
        tie_word_embeddings=False,
        audio_token_index=token_id("<|AUDIO|>"),
        image_token_index=token_id("<|IMAGE|>"),
        video_token_index=token_id("<|VIDEO|>"),
        audio_start_token_id=token_id("<|audio_bos|>"),
        audio_end_token_id=token_id("<|audio_eos|>"),
        vision_start_token_id=token_id("<|vision_bos|>"),
        vision_end_token_id=token_id("<|vision_eos|>"),
        user_token_id=token_id("<|im_start|>"),
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    with tempfile.TemporaryDirectory() as raw:
        model.save_pretrained(raw)
        processor.save_pretrained(raw)
        del model
        LCOEmbedding(raw, device="cpu").save_pretrained(folder, create_model_card=False)


def resident(field: str) -> int:
    """Return the resident memory of this process in bytes: VmRSS now, VmHWM at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def describe_machine(device: str) -> dict[str, Any]:
    """Return what of the machine a figure depends on."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    gpu = {"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {}
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(), **gpu, "versions": versions}
