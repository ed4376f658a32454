"""The command line: real files in, a table out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pyarrow.parquet
import pytest
import torch

from lco_embedding import LCOEmbedding
from lco_embedding.cli import main
from lco_embedding.cli.encode import find_rows
from lco_embedding.cli.similarity import format_table
from tests.media_files import sine, write_audio


@pytest.fixture
def folder(tmp_path: Path, samples: Path) -> Path:
    home = tmp_path / "corpus"
    (home / "deep").mkdir(parents=True)
    (home / ".hidden").mkdir()
    shutil.copy(samples / "images" / "red_circle.png", home / "deep")
    shutil.copy(samples / "images" / "red_circle.png", home / ".hidden")
    shutil.copy(samples / "sounds" / "voice_seven.wav", home)
    shutil.copy(samples / "clips" / "red_circle_moves_right.mp4", home)
    (home / "note.txt").write_text("a note about a circle.png")
    (home / "data.csv").write_text("1,2")
    lines = ["a line", {"id": "pair", "image": "deep/red_circle.png", "text": "what?"}, {"image": "gone.png"}]
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    text = "\n".join(json.dumps(line) for line in [*lines, chat]) + "\nnot json\n\n[1]\n"
    image = {"type": "image", "path": "deep/red_circle.png"}
    seen = {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}]}
    odd = [{**seen, "text": "lost?"}, seen["messages"], 7]
    text += "\n".join(json.dumps(line) for line in [seen, {"image": "deep/red_circle.png", "text": None}, *odd])
    (home / "rows.jsonl").write_text(text)
    (home / "bad.png").write_text("no picture")
    return home


def test_encode_writes_every_row_and_its_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], thinker: Path
) -> None:
    output = tmp_path / "out" / "embeddings.parquet"
    arguments = ["encode", str(folder), str(folder / "missing.wav"), "--model", str(thinker), "--output", str(output)]
    assert main([*arguments, "--batch-size", "2", "--device", "cpu"]) == 1
    table = pyarrow.parquet.read_table(output).to_pylist()
    rows = {row["path"].removeprefix(str(folder) + "/"): row for row in table}
    good = {
        "deep/red_circle.png": "image",
        "voice_seven.wav": "audio",
        "red_circle_moves_right.mp4": "video",
        "note.txt": "text",
        "rows.jsonl:1": "text",
        "pair": "image+text",
        "rows.jsonl:4": "text",
        "rows.jsonl:8": "image+text",
        "rows.jsonl:9": "image",
        "rows.jsonl:11": "image+text",
    }
    bad = {
        "bad.png": "not a readable image",
        "rows.jsonl:3": "no such file",
        "rows.jsonl:5": "not JSON",
        "rows.jsonl:7": "a list is neither the frames of a video nor chat messages",
        "rows.jsonl:10": "beside messages there can be an id, not text",
        "rows.jsonl:12": "no string, chat or object but int",
        "missing.wav": "no such file or folder",
    }
    assert set(rows) == {*good, *bad}
    model = LCOEmbedding(thinker, device="cpu")
    for name, modality in good.items():
        assert rows[name]["modality"] == modality
        assert rows[name]["error"] is None
    for name, reason in bad.items():
        assert rows[name]["embedding"] is None
        assert reason in rows[name]["error"]
    expected = model.encode([folder / "deep" / "red_circle.png", {"text": "a note about a circle.png"}, "hello"])
    got = np.array([rows[name]["embedding"] for name in ("deep/red_circle.png", "note.txt", "rows.jsonl:4")])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    printed = capsys.readouterr()
    assert "10 embedded, 7 failed, 1 other file(s) passed over" in printed.out
    assert "bad.png: the file is not a readable image" in printed.err


def test_an_id_that_is_null_is_none(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"id": null, "text": "a"}\n{"id": 0, "text": "b"}')
    assert [row.path for row in find_rows([str(lines)])[0]] == [f"{lines}:1", "0"]


def test_encode_writes_npz(folder: Path, tmp_path: Path, thinker: Path) -> None:
    output = tmp_path / "embeddings.npz"
    assert main(["encode", str(folder / "deep"), "--model", str(thinker), "--output", str(output)]) == 0
    with np.load(output, allow_pickle=False) as arrays:
        assert arrays["embedding"].shape == (1, 128)
        assert arrays["path"].tolist() == [str(folder / "deep" / "red_circle.png")]
        assert arrays["modality"].tolist() == ["image"]
        assert arrays["error"].tolist() == [""]


def test_folders_are_walked_in_order(folder: Path) -> None:
    rows, passed_over = find_rows([str(folder)])
    assert passed_over == 1
    assert not any(".hidden" in row.path for row in rows)
    assert [row.path for row in rows] == [row.path for row in find_rows([str(folder)])[0]]


def test_similarity_prints_a_table(samples: Path, capsys: pytest.CaptureFixture[str], thinker: Path) -> None:
    inputs = ["a red circle", str(samples / "images" / "red_circle.png"), str(samples / "sounds" / "voice_seven.wav")]
    assert main(["similarity", *inputs, "--model", str(thinker)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    scores = np.array([[float(cell) for cell in line.split()[-3:]] for line in lines[1:]])
    model = LCOEmbedding(thinker, device="cpu")
    embeddings = model.encode(inputs)
    np.testing.assert_allclose(scores, embeddings @ embeddings.T, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["similarity", "only one"], "at least two inputs"),
        (["similarity", "a", "gone.png"], "no such file"),
        (["encode", ".", "--output", "x.csv"], "must end in .parquet or .npz"),
        (["encode", ".", "--batch-size", "0"], "--batch-size must be at least 1"),
        (
            ["encode", "no-such-folder-is-here/", "--output", "x.npz", "--model", "no/such/model/here"],
            "there is no folder",
        ),
    ],
)
def test_wrong_arguments_say_why(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert reason in capsys.readouterr().err


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(tmp_path), "--output", str(tmp_path / "x.npz")]) == 2
    assert "nothing to embed" in capsys.readouterr().err


def test_long_names_are_shortened() -> None:
    table = format_table(["x" * 100, "b"], [[1.0, 0.5], [0.5, 1.0]])
    assert max(map(len, table.splitlines())) < 70
    assert "1.000  0.500" in table


def test_help_and_import_load_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys, lco_embedding, lco_embedding.cli as cli\n"
        "try: cli.main(['encode', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'numpy', 'PIL', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "JSON-lines" in result.stdout
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_told_at_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.npz").mkdir()
    assert main(["encode", str(folder), "--output", str(tmp_path / "taken.npz")]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize("parent", ["file.txt", "/proc"])
def test_an_output_folder_that_takes_no_files_is_told_at_once(
    parent: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.txt").touch()
    assert main(["encode", str(folder), "--output", str(tmp_path / parent / "x.npz"), "--model", "no/such/model"]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes for a file name")
@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_names_that_are_not_utf8_are_kept(ending: str, samples: Path, tmp_path: Path, thinker: Path) -> None:
    home = tmp_path / "corpus"
    home.mkdir()
    odd = os.path.join(os.fsencode(home), b"caf\xe9 100%.png")
    shutil.copy(samples / "images" / "red_circle.png", odd)
    shutil.copy(samples / "images" / "red_circle.png", home / "plain %E9.png")
    (home / "rows.jsonl").write_text('{"id": "half \\ud800", "text": "a"}\n{"image": "gone \\ud800.png"}\n')
    os.rename(home / "rows.jsonl", os.path.join(os.fsencode(home), b"rows\xff.jsonl"))
    output = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"out\xff." + ending.encode())))
    output.write_text("an older table")
    command = [sys.executable, "-m", "lco_embedding.cli", "encode", str(home), "--output", os.fsencode(output)]
    run = subprocess.run([*command, "--model", str(thinker), "--device", "cpu"], capture_output=True)
    assert run.returncode == 1, run.stderr
    assert b"3 embedded, 1 failed" in run.stdout
    if ending == "parquet":
        with output.open("rb") as file:
            paths = pyarrow.parquet.read_table(file)["path"].to_pylist()
    else:
        with output.open("rb") as file:
            paths = np.load(file)["path"].tolist()
    assert paths[1] == str(home / "plain %E9.png")
    assert unquote_to_bytes(urlsplit(paths[0]).path) == odd
    assert paths[0].startswith("file:///")
    assert paths[2] == "half \\ud800"
    assert paths[3].endswith("/rows%FF.jsonl:2")
    assert [name for name in os.listdir(os.fsencode(tmp_path)) if name.startswith(b"out")] == [os.fsencode(output.name)]


def test_voice_messages_and_rare_endings_are_embedded(tmp_path: Path, thinker: Path) -> None:
    home = tmp_path / "corpus"
    home.mkdir()
    write_audio(home / "message.webm", sine(440, 1, 48_000), 48_000, "libopus")
    write_audio(home / "old.caf", sine(440, 1, 48_000), 48_000)
    (home / "main.ts").write_text("const one = 1")
    output = tmp_path / "table.npz"
    assert main(["encode", str(home), "--model", str(thinker), "--output", str(output), "--device", "cpu"]) == 0
    with np.load(output) as table:
        assert [Path(path).name for path in table["path"]] == ["message.webm", "old.caf"]
        assert table["modality"].tolist() == ["audio", "audio"]


def test_the_world_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ["--images", "2", "--sounds", "1", "--clips", "1", "--documents", "1"]
    assert main(["world", str(tmp_path / "world"), "--split", "test", *counts]) == 0
    assert "5 scenes of the test split" in capsys.readouterr().out
    assert len((tmp_path / "world" / "index.jsonl").read_text().splitlines()) == 5


def test_an_input_beyond_the_memory_is_named(
    thinker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lco_embedding.modules.omni_transformer import OmniTransformer

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(OmniTransformer, "forward", full)
    assert main(["similarity", "a", "b", "--model", str(thinker), "--device", "cpu"]) == 2
    assert "does not fit into the memory of cpu" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(thinker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lco_embedding.modules.omni_transformer import OmniTransformer

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(OmniTransformer, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["similarity", "a", "b", "--model", str(thinker), "--device", "cpu"])


def test_a_device_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similarity", "a", "b", "--device", "cudda"]) == 2
    assert "--device cudda can't be used: Expected one of cpu, cuda" in capsys.readouterr().err
