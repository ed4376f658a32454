"""Checking a medium by its header, and turning it into features and tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lco_embedding import LCOEmbedding
from lco_embedding.modules import media
from lco_embedding.modules.inputs import Block, parse_inputs
from lco_embedding.modules.media_features import MediaReader, splice
from tests.conftest import SAMPLES, clip, noise, tone
from tests.media_files import counting_frames, sine, write_audio, write_video

RATE = 16_000
HEARD = {"video": {"load_audio_from_video": True}}


@dataclass
class Metadata:
    duration_seconds_from_header: float | None


@dataclass
class Decoder:
    """A `torchcodec` audio decoder that is not to decode."""

    metadata: Metadata

    def get_all_samples(self) -> Any:
        raise AssertionError("decoded while only headers are checked")


def heard_clip(sound: Any) -> dict[str, Any]:
    return {**clip(frames=8), "audio": sound}


LONG = {"array": np.zeros(301 * 8000, np.float32), "sampling_rate": 8000}


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (LONG, "301.0 s of audio are longer than the 300 s"),
        (Decoder(Metadata(400.0)), "400.0 s of audio are longer"),
        (3, "int is no path"),
        ("gone.wav", "no such file"),
        ({"array": tone()}, "sampling_rate must be"),
        (np.full(RATE, np.nan), "NaN or infinite"),
        (np.zeros(0, np.float32), "no audio"),
    ],
    ids=["long", "long decoder", "number", "no file", "no rate", "NaN", "empty"],
)
def test_sound_of_a_video_that_is_heard_is_checked_before_anything_is_computed(
    shared_model: LCOEmbedding, sound: Any, reason: str
) -> None:
    values = ["a text", {"video": heard_clip(sound)}, heard_clip(tone())]
    items, problems = shared_model.omni.parse(values, shared_model.omni.reader(HEARD))
    assert [item.index for item in items] == [0, 2]
    assert [problem.index for problem in problems] == [1]
    assert re.search(reason, problems[0].reason)
    # What is not heard does not matter.
    assert not shared_model.omni.parse(values)[1]


def test_header_checks_keep_indices_and_name_sources(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nonsense")
    reader = shared_model.omni.reader()
    reader = replace(reader, backbone=replace(reader.backbone, kinds=("text", "image")))
    png, wav = SAMPLES / "images" / "red_circle.png", SAMPLES / "sounds" / "voice_seven.wav"
    parsed, _ = parse_inputs(["a", broken, png, {"image": png, "audio": wav}])
    good, problems = reader.check(parsed)
    assert [item.index for item in good] == [0, 2]
    assert [(problem.index, problem.source) for problem in problems] == [
        (1, f"image {str(broken)!r}"),
        (3, f"audio {str(wav)!r}"),
    ]
    assert (good[1].blocks[0].extent.width, good[1].blocks[0].extent.height) == Image.open(png).size
    assert reader.check(good) == (good, []), "what is checked is not read again"


def test_length_of_the_sound_of_a_file_is_checked_by_its_header(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    frames, sound = counting_frames(8), sine(300, 301.0, 8000)
    for ending, codec in (("mp4", "aac"), ("mkv", "flac")):
        path = write_video(tmp_path / f"long.{ending}", frames, sound=(sound, 8000, codec))
        (problem,) = shared_model.omni.parse([path], shared_model.omni.reader(HEARD))[1]
        assert "s of audio are longer than the 300 s" in problem.reason
        assert not shared_model.omni.parse([path])[1]
        assert not shared_model.omni.parse([path], shared_model.omni.reader({**HEARD, "audio": {"truncation": True}}))[
            1
        ]


@pytest.mark.parametrize("first", [0, 8])
def test_sound_of_a_file_is_heard_from_its_first_frame_on(
    shared_model: LCOEmbedding, tmp_path: Path, first: int
) -> None:
    wave = np.concatenate([sine(300, 1.0, RATE), sine(900, 2.0, RATE)])
    path = tmp_path / "clip.mkv"
    times = range(first, first + 16)
    write_video(path, counting_frames(16), codec="libvpx-vp9", sound=(wave, RATE, "flac"), times=times)
    frames = media.load_video(path, media.Sampling(fps=1000, max_frames=1000), 10**9).frames
    sound = {"array": media.load_audio(path, RATE)[first * RATE // 8 :], "sampling_rate": RATE}
    in_memory = {"array": frames, "video_metadata": {"fps": 8.0}, "audio": sound}
    reader = shared_model.omni.reader(HEARD)
    found, expected = (reader.features(Block("video", value), with_sound=True) for value in (path, in_memory))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_without_resizing_sides_must_be_those_of_tokens(shared_model: LCOEmbedding, kind: str) -> None:
    settings = {kind: {"do_resize": False}}
    for shape, is_good in (((56, 84, 3), True), ((56, 80, 3), False)):
        value = noise(*shape) if kind == "image" else noise(4, *shape)
        items, problems = shared_model.omni.parse([value], shared_model.omni.reader(settings))
        assert len(items) == is_good
        if is_good:
            assert shared_model.encode([value], processing_kwargs=settings).shape == (1, 128)
        else:
            assert "80 x 56 pixels are no multiples of 28" in problems[0].reason


def test_a_reader_checks_its_settings(shared_model: LCOEmbedding) -> None:
    omni = shared_model.omni
    with pytest.raises(ValueError, match="is no setting of image"):
        MediaReader(omni.processor, omni.backbone, {**omni.processing_kwargs, "image": {"max_pixel": 1}})


def test_estimates_grow_with_what_is_embedded(shared_model: LCOEmbedding) -> None:
    reader = shared_model.omni.reader()

    def estimate(value: Any) -> int:
        (item,), _ = shared_model.omni.parse([value])
        return reader.estimate_tokens(item)

    assert estimate("word " * 100) > estimate("word")
    assert estimate(noise(160, 160, 3)) > estimate(noise(56, 56, 3))
    assert estimate({"array": tone(9.0), "sampling_rate": RATE}) > estimate({"array": tone(1.0), "sampling_rate": RATE})
    assert estimate(clip(frames=64)) > estimate(clip(frames=8))


def test_features_stand_for_as_many_tokens_as_they_say(shared_model: LCOEmbedding) -> None:
    reader = shared_model.omni.reader()
    features = reader.features(Block("image", noise(84, 112, 3)), with_sound=False)
    grid = int(features["image_grid_thw"].prod())
    assert len(features["pixel_values"]) == grid
    stands_for = features["input_ids"].count(shared_model.processor.image_token_id)
    assert stands_for == grid // 4


def test_splice_puts_the_tokens_of_each_medium_in_its_place() -> None:
    assert splice([1, 9, 2, 8, 3], [[9, 9], [8]], {8, 9}) == [1, 9, 9, 2, 8, 3]
    assert splice([1, 2], [], {8, 9}) == [1, 2]
    assert torch.tensor(splice([9], [[9] * 5], {9})).tolist() == [9] * 5


def test_estimated_length_refuses_nothing(shared_model: LCOEmbedding, tmp_path: Path) -> None:
    wave, options = sine(300, 20.0, RATE), {"write_xing": "0", "id3v2_version": "0"}
    parts = [
        write_audio(tmp_path / f"{rate}.mp3", wave[: seconds * RATE], RATE, "libmp3lame", options=options, b=rate)
        for rate, seconds in (("8000", 2), ("160000", 20))
    ]
    joined = b"".join(part.read_bytes() for part in parts)
    assert media.check_audio(joined).seconds > 300
    assert not shared_model.omni.parse([{"audio": joined}], shared_model.omni.reader({}))[1]
