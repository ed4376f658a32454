"""Retrieval on one's own pairs: every pair of modalities in both directions, and bad rows that cost nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lco_embedding import LCOEmbedding
from lco_embedding.cli import main
from lco_embedding.evaluation import evaluate_retrieval
from lco_embedding.evaluation.pairs import evaluate_pairs

SEEN = {
    "red_circle.png": "a red circle",
    "blue_square.jpg": "a blue square",
    "green_star.webp": "a green star",
    "purple_ring.jpg": "a purple ring",
}
HEARD = {"voice_seven.wav": "the word seven", "low_flute.mp3": "a low flute", "high_beeps.ogg": "high beeps"}


@pytest.fixture(scope="module")
def miniature() -> LCOEmbedding:
    return LCOEmbedding.miniature(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, samples: Path) -> Path:
    for name in SEEN:
        shutil.copy(samples / "images" / name, tmp_path)
    for name in HEARD:
        shutil.copy(samples / "sounds" / name, tmp_path)
    shutil.copy(samples / "clips" / "red_circle_moves_right.mp4", tmp_path)
    return tmp_path


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_both_directions_of_every_pair_of_modalities(folder: Path, miniature: LCOEmbedding) -> None:
    rows: list[Any] = [{"anchor": {"text": text}, "positive": {"image_path": name}} for name, text in SEEN.items()]
    rows += [{"anchor": {"audio": name}, "positive": text} for name, text in HEARD.items()]
    rows += [{"anchor": "a circle goes right", "positive": {"video_path": "red_circle_moves_right.mp4"}}]
    rows += [
        {"anchor": {"image_path": "red_circle.png", "text": "the same, but blue"}, "positive": "a blue circle"},
        {"anchor": "a red circle", "positive": "one circle that is red"},
    ]
    result = evaluate_pairs(miniature, write(folder / "pairs.jsonl", rows), bootstrap=50)
    assert (result.rows, list(result.errors)) == (len(rows), [])
    assert {name: (each.queries, each.documents) for name, each in result.directions.items()} == {
        "text -> image": (4, 4),
        "image -> text": (4, 4),
        "audio -> text": (3, 3),
        "text -> audio": (3, 3),
        "text -> video": (1, 1),
        "video -> text": (1, 1),
        "image+text -> text": (1, 1),
        "text -> image+text": (1, 1),
        "text -> text": (1, 1),
        "text <- text": (1, 1),
    }
    texts, images = miniature.encode([*SEEN.values()]), miniature.encode([folder / name for name in SEEN])
    expected = evaluate_retrieval(texts, images, range(4), bootstrap=50)
    assert result.directions["text -> image"] == expected
    assert result.directions["image -> text"] == evaluate_retrieval(images, texts, range(4), bootstrap=50)
    figures = result.figures()
    assert figures["text -> image: ndcg@10"] == expected.ndcg[10].value
    assert set(result.intervals()) == set(figures)
    assert all(low <= figures[name] <= high for name, (low, high) in result.intervals().items())


def test_rows_of_either_order_are_one_group(folder: Path, miniature: LCOEmbedding) -> None:
    sides: list[Any] = [(text, {"image_path": name}) for name, text in SEEN.items()]
    ordered = [pair if index % 2 else pair[::-1] for index, pair in enumerate(sides)]
    rows = [{"anchor": anchor, "positive": positive} for anchor, positive in ordered]
    result = evaluate_pairs(miniature, write(folder / "pairs.jsonl", rows), bootstrap=10)
    assert {name: each.documents for name, each in result.directions.items()} == {
        "image -> text": 4,
        "text -> image": 4,
    }


def test_one_document_with_several_partners_is_one_document(folder: Path, miniature: LCOEmbedding) -> None:
    shutil.copy(folder / "red_circle.png", folder / "again.png")
    captions = ["a red circle", "one circle that is red", "a crimson disc"]
    rows: list[Any] = [
        {"anchor": text, "positive": {"image_path": name}}
        for text, name in zip(captions, ["red_circle.png", "again.png", "red_circle.png"], strict=True)
    ]
    rows += [{"anchor": "a blue square", "positive": {"image_path": "blue_square.jpg"}}]
    rows += [rows[0]]
    result = evaluate_pairs(miniature, write(folder / "pairs.jsonl", rows), bootstrap=10)
    to_image, to_text = result.directions["text -> image"], result.directions["image -> text"]
    assert (to_image.queries, to_image.documents) == (4, 2)
    assert (to_text.queries, to_text.documents) == (2, 4)
    texts = miniature.encode([*captions, "a blue square"])
    images = miniature.encode([folder / "red_circle.png", folder / "blue_square.jpg"])
    assert to_text.figures() == evaluate_retrieval(images, texts, [{0, 1, 2}, {3}], bootstrap=10).figures()


def test_bad_rows_are_named_and_left_out(folder: Path, miniature: LCOEmbedding) -> None:
    (folder / "broken.png").write_bytes((folder / "red_circle.png").read_bytes()[:100])
    good: list[Any] = [{"anchor": text, "positive": {"image_path": name}} for name, text in SEEN.items()]
    bad: list[Any] = [
        "not json",
        "[1]",
        {"anchor": "no positive"},
        {"anchor": "a", "positive": {"image_path": "gone.png"}},
        {"anchor": {"pixels": "a"}, "positive": "b"},
        {"anchor": "a", "positive": ""},
        {"anchor": {"image_path": "broken.png"}, "positive": "a"},
        {"anchor": 3, "positive": "a"},
    ]
    path = write(folder / "pairs.jsonl", [*good[:2], *bad, *good[2:]])
    result = evaluate_pairs(miniature, path, bootstrap=10)
    reasons = ["not JSON", "needs an 'anchor'", "needs an 'anchor'", "gone.png", "must hold strings", "empty"]
    reasons += ["broken.png", "must be a text or an object"]
    assert len(result.errors) == len(bad)
    for number, (error, reason) in enumerate(zip(result.errors, reasons, strict=True), start=3):
        assert error.startswith(f"{path}:{number}: ")
        assert reason in error
    alone = evaluate_pairs(miniature, write(folder / "good.jsonl", good), bootstrap=10)
    assert result.figures() == alone.figures()


def test_a_file_without_a_good_row_is_an_error(tmp_path: Path, miniature: LCOEmbedding) -> None:
    with pytest.raises(ValueError, match=r"no row can be evaluated:\n- .*pairs.jsonl:1"):
        evaluate_pairs(miniature, write(tmp_path / "pairs.jsonl", ["[]"]))


def test_chance_is_chance(tmp_path: Path, shared_model: LCOEmbedding) -> None:
    rng = np.random.default_rng(0)
    words = ["red", "blue", "circle", "square", "low", "high", "tone", "star"]
    rows = [
        {
            "anchor": " ".join(rng.choice(words, 4)) + f" {index}",
            "positive": " ".join(rng.choice(words, 4)) + f" {index}x",
        }
        for index in range(60)
    ]
    result = evaluate_pairs(shared_model, write(tmp_path / "pairs.jsonl", rows), bootstrap=10)
    assert result.directions["text -> text"].recall[1].value < 0.5


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [{"anchor": text, "positive": {"image_path": name}} for name, text in SEEN.items()]
    first = write(folder / "seen.jsonl", rows)
    second = write(
        folder / "heard.jsonl", [*({"anchor": text, "positive": {"audio": name}} for name, text in HEARD.items()), "[]"]
    )
    third = write(folder / "nothing.jsonl", ["{}"])
    output = folder / "checkpoint" / "evaluation"
    words = ["evaluate", "--data", str(first), str(third), str(second), "--output", str(output), "--bootstrap", "20"]
    assert main([*words, "--device", "cpu", "--batch-size", "2"]) == 1
    printed = capsys.readouterr()
    assert f"{second}:4: a row needs an 'anchor' and a 'positive'" in printed.err
    assert f"{third}: no row can be evaluated" in printed.err
    assert f"{first}: 4 rows; in percent" in printed.out
    assert f"{second}: 4 rows, 1 left out" in printed.out
    assert "text -> audio" in printed.out
    assert sorted(path.name for path in output.iterdir()) == ["heard.json", "seen.json"]
    report = json.loads((output / "seen.json").read_text())
    result = evaluate_pairs(LCOEmbedding.miniature(device="cpu"), first, bootstrap=20)
    assert report["name"] == "seen"
    assert report["figures"] == pytest.approx(result.figures())
    assert set(report["intervals"]) == set(report["figures"])
    assert report["counts"] == {
        "rows": 4,
        "left out": 0,
        "text -> image: queries": 4,
        "text -> image: documents": 4,
        "image -> text: queries": 4,
        "image -> text: documents": 4,
    }
    assert report["command"].startswith(
        "lco-embedding evaluate --data seen.jsonl nothing.jsonl heard.jsonl --output evaluation"
    )
    assert {"lco-embedding", "python", "torch", "transformers", "sentence-transformers"} == set(report["versions"])
    assert len(report["revision"]) == 40


def test_settings_reach_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = [{"anchor": text, "positive": {"image_path": name}} for name, text in SEEN.items()]
    words = ["evaluate", "--data", str(write(folder / "seen.jsonl", rows)), "--output", str(folder), "--bootstrap", "2"]
    revisions = []
    for settings in ([], ["--processing-kwargs", '{"image": {"max_pixels": 3136}}']):
        assert main([*words, *settings, "--device", "cpu"]) == 0
        revisions.append(json.loads((folder / "seen.json").read_text())["revision"])
    assert revisions[0] != revisions[1]
    capsys.readouterr()
    for settings, reason in (("{", "is not JSON"), ("[]", "must be a JSON object"), ('{"image": {"a": 1}}', "'a'")):
        assert main([*words, "--processing-kwargs", settings]) == 2
        assert reason in capsys.readouterr().err


def test_what_can_not_be_done_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 2
    assert "name --tasks, --data or both" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(tmp_path / "gone.jsonl")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_files_of_one_name_have_reports_of_their_own(tmp_path: Path) -> None:
    files = []
    for part, rows in (("a", 2), ("b", 3)):
        (tmp_path / part).mkdir()
        pairs = [{"anchor": f"a red {n}", "positive": f"a blue {n}"} for n in range(rows)]
        files.append(str(write(tmp_path / part / "dev.jsonl", pairs)))
    output = str(tmp_path / "out")
    assert main(["evaluate", "--data", *files, "--device", "cpu", "--bootstrap", "10", "--output", output]) == 0
    reports = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert {name: report["counts"]["rows"] for name, report in reports.items()} == {"a_dev": 2, "b_dev": 3}
    assert main(["evaluate", "--data", files[0], files[0], "--device", "cpu", "--output", output]) == 2
