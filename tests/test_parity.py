"""LCOEmbedding against a loop written with transformers alone, as the published usage is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoProcessor

from lco_embedding import LCOEmbedding
from tests.conftest import clip, noise, tone

GENERATION_CLASSES = {
    "thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
}

IMAGE, TEXT, AUDIO = noise(90, 120, 3), "What is shown here? A circle.", tone(1.7)
VIDEO = clip(frames=32, fps=8.0)
EVERY_FOURTH = list(range(0, 32, 4))  # 4 s at 8 frames a second, seen at 2


def reference(folder: Path, name: str, content: list[dict[str, Any]], prompt: str, **media: Any) -> NDArray[np.float32]:
    """Embed one chat with the generation class, left padding and all hidden states.

    Qwen2.5-Omni reads the sampling rate of videos from `fps`, the others from the metadata.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = getattr(transformers, GENERATION_CLASSES[name]).from_pretrained(folder).eval()
    content = [*content, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    forward = {"use_audio_in_video": True} if "load_audio_from_video" in media else {}
    inputs = processor(text=[text], padding=True, return_tensors="pt", text_kwargs={"padding_side": "left"}, **media)
    with torch.inference_mode():
        hidden = model(**inputs, **forward, output_hidden_states=True).hidden_states[-1][:, -1]
    return torch.nn.functional.normalize(hidden, dim=-1)[0].numpy()


def video_media(name: str) -> dict[str, Any]:
    if name == "thinker":
        return {"videos": [torch.tensor(VIDEO["array"][EVERY_FOURTH]).permute(0, 3, 1, 2)], "fps": 2.0}
    metadata = {"fps": 8.0, "total_num_frames": 32, "frames_indices": EVERY_FOURTH}
    frames = torch.tensor(VIDEO["array"][EVERY_FOURTH]).permute(0, 3, 1, 2)
    return {"videos": [frames], "videos_kwargs": {"video_metadata": [metadata], "do_sample_frames": False}}


CASES: dict[str, tuple[Any, list[dict[str, Any]], str, Callable[[str], dict[str, Any]]]] = {
    "text": (TEXT, [{"type": "text", "text": TEXT}], " text", lambda name: {}),
    "image": (IMAGE, [{"type": "image"}], " image", lambda name: {"images": [IMAGE]}),
    "image and text": (
        {"image": IMAGE, "text": TEXT},
        [{"type": "image"}, {"type": "text", "text": TEXT}],
        "",
        lambda name: {"images": [IMAGE]},
    ),
    "video": ({"video": VIDEO}, [{"type": "video"}], " video", video_media),
    "audio": (
        {"array": AUDIO, "sampling_rate": 16_000},
        [{"type": "audio"}],
        " audio",
        lambda name: {"audio": [AUDIO], "sampling_rate": 16_000},
    ),
    "video with sound": (
        {"video": {**VIDEO, "audio": {"array": AUDIO, "sampling_rate": 16_000}}},
        [{"type": "video"}],
        " video",
        lambda name: {
            **video_media(name),
            "audio": [AUDIO],
            "audio_from_video_indices": [0],
            "load_audio_from_video": True,
        },
    ),
}

KINDS = {"thinker": list(CASES), "qwen2_5_vl": list(CASES)[:4], "llava_next": list(CASES)[:3]}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in KINDS.items() for case in cases])
def test_equals_a_loop_of_transformers_alone(name: str, case: str, checkpoints: Callable[[str], Path]) -> None:
    value, content, kind, media = CASES[case]
    prompt = f"\nSummarize the above{kind} in one word:"
    expected = reference(checkpoints(name), name, content, prompt, **media(name))
    options = {"load_audio_from_video": True} if case == "video with sound" else {}
    got = LCOEmbedding(checkpoints(name), device="cpu").encode(value, **options)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert float(got @ expected) >= 0.99999


@pytest.mark.parametrize("name", KINDS)
def test_a_final_norm_that_is_left_out_is_seen(name: str, checkpoints: Callable[[str], Path]) -> None:
    """Parity must be able to fail: norm weights of 1 would hide the norm from every cosine."""
    value, content, kind, _ = CASES["text"]
    expected = reference(checkpoints(name), name, content, f"\nSummarize the above{kind} in one word:")
    model = LCOEmbedding(checkpoints(name), device="cpu")
    model.omni.model.get_submodule(model.omni.backbone.decoder).norm = torch.nn.Identity()
    assert float(model.encode(value) @ expected) < 0.99


def test_audio_features_equal_those_padded_to_five_minutes(shared_model: LCOEmbedding) -> None:
    """The processor pads every clip to 300 s; the features at the clip's own length must not differ."""
    processor = shared_model.processor
    for seconds in (0.05, 0.5, 1.0, 2.53):
        wave = tone(seconds, 700) + 0.01 * np.random.default_rng(0).standard_normal(int(seconds * 16_000))
        stock = processor(
            text=["<|AUDIO|>"], audio=[wave.astype(np.float32)], sampling_rate=16_000, return_tensors="pt"
        )
        ours = shared_model.preprocess([{"array": wave, "sampling_rate": 16_000}])
        length = int(stock["feature_attention_mask"].sum())
        assert int(ours["feature_attention_mask"].sum()) == length
        difference = stock["input_features"][..., :length] - ours["input_features"][..., :length]
        assert difference.abs().max() <= 1e-5
