"""Sorting anything into chat messages."""

from __future__ import annotations

import base64
import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from lco_embedding.modules import inputs
from lco_embedding.modules.inputs import InputError, Item, Problem, parse_input
from lco_embedding.modules.media import MediaError
from tests.conftest import SAMPLES, noise, tone

PNG, WAV = SAMPLES / "images" / "red_circle.png", SAMPLES / "sounds" / "voice_seven.wav"
MP3, M4A = SAMPLES / "sounds" / "low_flute.mp3", SAMPLES / "sounds" / "hiss_then_buzz.m4a"
MP4, WEBM = SAMPLES / "clips" / "red_circle_moves_right.mp4", SAMPLES / "clips" / "green_star_blinks.webm"


def kinds(value: Any) -> list[str]:
    return [block.kind for message in parse_input(value) for block in message.blocks]


def data_uri(path: Path, media_type: str) -> str:
    return f"data:{media_type};base64," + base64.b64encode(path.read_bytes()).decode()


class Samples:
    data = torch.zeros(1, 16_000)
    sample_rate = 16_000


class FakeAudioDecoder:
    metadata = None

    def get_all_samples(self) -> Samples:
        return Samples()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a sentence", ["text"]),
        ("a sentence.\nsee figure.png", ["text"]),
        ("https://example.org/page", ["text"]),
        ({"text": "what is in cat.png"}, ["text"]),
        (str(PNG), ["image"]),
        (PNG, ["image"]),
        (PNG.read_bytes(), ["image"]),
        (bytearray(PNG.read_bytes()), ["image"]),
        (Image.new("RGB", (8, 8)), ["image"]),
        (data_uri(PNG, "image/png"), ["image"]),
        (noise(8, 8, 3), ["image"]),
        (torch.zeros(3, 8, 8), ["image"]),
        ({"bytes": PNG.read_bytes(), "path": None}, ["image"]),
        ({"image": {"bytes": None, "path": str(PNG)}}, ["image"]),
        (str(WAV), ["audio"]),
        (M4A, ["audio"]),
        (MP3.read_bytes(), ["audio"]),
        (M4A.read_bytes(), ["audio"]),
        (tone(), ["audio"]),
        (np.zeros((2, 16_000), np.float32), ["audio"]),
        ({"array": tone(), "sampling_rate": 8_000}, ["audio"]),
        ({"array": tone(), "sampling_rate": 8_000, "path": "gone.wav"}, ["audio"]),
        (data_uri(WAV, "audio/wav"), ["audio"]),
        ({"audio": MP4}, ["audio"]),
        (FakeAudioDecoder(), ["audio"]),
        (str(MP4), ["video"]),
        (MP4.read_bytes(), ["video"]),
        (WEBM.read_bytes(), ["video"]),
        (noise(4, 8, 8, 3), ["video"]),
        ([Image.new("RGB", (8, 8))] * 3, ["video"]),
        ({"video": [noise(8, 8, 3)] * 3}, ["video"]),
        ({"video": [str(PNG), str(PNG)]}, ["video"]),
        ({"video": [noise(4, 8, 8, 3), str(MP4)]}, ["video", "video"]),
        ({"array": noise(4, 8, 8, 3), "video_metadata": {"fps": 2}}, ["video"]),
        ({"image": [PNG, PNG], "text": ["a", "b"], "audio": tone()}, ["image", "image", "text", "text", "audio"]),
        ({"text": "a", "image": PNG}, ["text", "image"]),
        ({"role": "user", "content": "gone.png"}, ["text"]),
        ([{"role": "user", "content": [{"type": "image", "path": str(PNG)}, "and text"]}], ["image", "text"]),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_uri(PNG, "image/png")}}]},
            ["image"],
        ),
        (
            {"role": "user", "content": [{"type": "audio", "base64": base64.b64encode(WAV.read_bytes()).decode()}]},
            ["audio"],
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else None,
)
def test_kinds(value: Any, expected: list[str]) -> None:
    assert kinds(value) == expected


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("", [""]),
        (" \n\t", [" \n\t"]),
        ({"text": ""}, [""]),
        ({"text": ["", ""]}, [""]),
        ({"text": ["", "words"]}, ["words"]),
        ({"role": "user", "content": ""}, [""]),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], [" "]),
    ],
)
def test_an_empty_text_is_a_text(value: Any, texts: list[str]) -> None:
    (message,) = parse_input(value)
    assert [block.value for block in message.blocks] == texts
    assert Item(0, (message,)).is_empty == (not "".join(texts).strip())


def test_an_empty_text_beside_a_medium_is_absent() -> None:
    (message,) = parse_input({"text": "", "image": PNG})
    assert [block.kind for block in message.blocks] == ["image"]
    assert not Item(0, (message,)).is_empty


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is None"),
        (float("nan"), "can't be embedded"),
        (3, "can't be embedded"),
        (object(), "can't be embedded"),
        ([], "empty list"),
        ((), "empty list"),
        ({}, "empty dict"),
        ({"image": None}, "image is None"),
        ({"image": []}, "list of image is empty"),
        ({"text": 3}, "must be a string"),
        ({"picture": PNG}, r"unknown keys \['picture'\]"),
        ({"array": tone()}, "needs 'sampling_rate'"),
        ({"image": PNG, "sampling_rate": 3}, "unknown keys"),
        ("gone.png", r'no such file; if it is a text, pass \{"text"'),
        ("a picture of cat.JPEG", "no such file"),
        ("gone.m4a", "path of an audio"),
        ("clip.webm", "path of a video"),
        ("https://example.org/cat.png", "not fetched"),
        ({"image": "https://example.org/cat"}, "not fetched"),
        ("data:image/png;base64,%%%", "base64 content is broken"),
        ("data:image/png,abc", "must be base64"),
        ({"audio": "data:image/png;base64,AAAA"}, "holds image, not audio"),
        (b"", "no bytes"),
        (b"neither", "can't be read as audio or video"),
        (noise(1, 1, 1, 8, 8), "1 or 2 axes for audio"),
        (["a", "b"], "neither the frames of a video nor chat messages"),
        ({"role": "user", "content": []}, "must be text or a list of blocks"),
        ({"role": "user", "content": [{"type": "table"}]}, "type 'table'"),
        ({"role": "user", "content": [{"type": "image"}]}, "has no 'image'"),
        ({"role": "assistant", "content": "x"}, "role 'user'"),
        ("bad \ud800", "not valid Unicode"),
        ({"text": "\ud800"}, "not valid Unicode"),
        ("gone.png\n", "no such file"),
        ("HTTPS://host/cat.jpg?w=200", "not fetched"),
    ],
)
def test_bad_values_say_why(value: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        parse_input(value)


def test_relative_path_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.png").write_bytes(PNG.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert kinds("here.png") == ["image"]
    assert kinds({"text": "here.png"}) == ["text"]


def test_parsing_keeps_indices_and_items(tmp_path: Path) -> None:
    good, problems = inputs.parse_inputs(["a", None, PNG, [], {"image": PNG, "audio": WAV}])
    assert [item.index for item in good] == [0, 2, 4]
    assert [(problem.index, problem.source) for problem in problems] == [(1, "NoneType"), (3, "list")]
    assert inputs.parse_inputs(good) == (good, [])


def test_input_error_lists_and_pickles() -> None:
    error = InputError([Problem(3, "'a.png'", "gone"), Problem(7, "None", "missing")])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.problems == error.problems
    assert "- input 3 ('a.png'): gone\n- input 7 (None): missing" in str(error)
    assert "of this batch" in str(InputError(error.problems, scope="batch"))


@pytest.mark.parametrize(("path", "kind"), [(PNG, "image"), (WAV, "audio"), (M4A, "audio"), (WEBM, "video")])
def test_open_files_are_read_from_their_start(tmp_path: Path, path: Path, kind: str) -> None:
    content = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(path, path.name)
    with path.open("rb") as opened, zipfile.ZipFile(tmp_path / "archive.zip").open(path.name) as member:
        for stream in (BytesIO(content), opened, member):
            stream.read(7)
            for value in (stream, {kind: stream}, {kind: [stream]}):
                (block,) = parse_input(value)[0].blocks
                assert (block.kind, block.value) == (kind, content)


def test_sound_of_a_video_in_memory_may_be_an_open_file() -> None:
    frames = noise(4, 8, 8, 3)
    for value in ({"array": frames, "video_metadata": {"fps": 2}}, {"video": {"array": frames}}):
        inner = value.get("video", value)
        inner["audio"] = BytesIO(WAV.read_bytes())
        (block,) = parse_input(value)[0].blocks
        assert block.value["audio"] == WAV.read_bytes()
        assert block.value["array"] is frames


def test_open_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    closed = BytesIO(PNG.read_bytes())
    closed.close()
    (tmp_path / "notes.md").write_text("words")
    reading, writing = os.pipe()
    with (
        (tmp_path / "notes.md").open() as text,
        os.fdopen(reading, "rb") as pipe,
        os.fdopen(writing, "wb") as _,
        (tmp_path / "written.bin").open("wb") as written,
    ):
        for stream, reason in (
            (closed, "closed"),
            (text, 'open it with mode "rb"'),
            (pipe, "pass its path or its bytes"),
            (written, "pass its path or its bytes"),
            (BytesIO(b""), "no bytes"),
            (BytesIO(b"x"), "can't be read as audio or video"),
        ):
            with pytest.raises(MediaError, match=reason):
                parse_input(stream)


def test_rows_of_a_data_frame_say_what_to_pass() -> None:
    frame = pandas.DataFrame({"text": ["a", "b"], "image": [str(PNG), str(PNG)]})
    for value in (frame, frame.iloc[0], frame["text"]):
        with pytest.raises(MediaError, match=r"to_dict\(\)"):
            parse_input(value)
    assert kinds(frame.iloc[0].to_dict()) == ["text", "image"]
    with pytest.raises(MediaError, match="can't be embedded"):
        parse_input(pandas.NA)


@pytest.mark.parametrize(
    ("path", "kind"), [(PNG, "image"), (MP3, "audio"), (M4A, "audio"), (MP4, "video"), (WEBM, "video")]
)
@pytest.mark.parametrize("name", ["file.bin", "part.0001", "3f2a9c", "photo of a cat.orig"])
def test_strings_that_name_a_medium_of_unknown_ending(tmp_path: Path, path: Path, kind: str, name: str) -> None:
    copy = tmp_path / name
    copy.write_bytes(path.read_bytes())
    (block,) = parse_input(f"{copy}\n")[0].blocks
    assert (block.kind, block.value) == (kind, str(copy))
    assert kinds({"text": str(copy)}) == ["text"]


def test_strings_that_name_another_file_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("notes.md", b"words"), ("table.csv", b"a,b\n1,2\n"), ("empty.bin", b"")):
        (tmp_path / name).write_bytes(content)
        assert kinds(name) == ["text"]
        assert kinds(str(tmp_path / name)) == ["text"]
    # A word is a word, even where a picture has it for a name.
    (tmp_path / "cat").write_bytes(PNG.read_bytes())
    assert kinds("cat") == ["text"]
    assert kinds("./cat") == ["image"]
    assert kinds(str(tmp_path)) == ["text"]


def test_plain_texts_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> bool:
        raise AssertionError(f"{path!r} was looked up")

    monkeypatch.setattr(os.path, "isfile", refuse)
    for text in ("a red circle", "It ends in a stop.", "Really?", "e.g. this one", "x" * 2000 + "/y", "a\n/b.c"):
        assert kinds(text) == ["text"]
