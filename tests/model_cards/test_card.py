"""Model cards: what is in a checkpoint is told, its code runs, its metadata holds, and what a person wrote stays."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from sentence_transformers import SentenceTransformer

from lco_embedding import LCOEmbedding
from lco_embedding.checkpoints.builtin import CHECKPOINTS
from lco_embedding.checkpoints.info import Checkpoint
from lco_embedding.cli import main
from lco_embedding.model_cards import LCOModelCardData, card_text, write_card
from lco_embedding.model_cards.card import metadata_of
from lco_embedding.modules.backbones import BACKBONES
from tests.hub_server import card_errors

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)

RECORD = {
    "stage": "contrastive training",
    "base": "Qwen/Qwen2.5-Omni-3B",
    "data": ["nli.jsonl", "org/pairs:train"],
    "rows": 276_000,
    "steps": 718,
    "minutes": 281.5,
    "parameters": {"trained": 119_734_272, "frozen": 4_583_730_176},
    "arguments": {"learning_rate": 4e-4, "lora_r": 64, "seed": 42},
    "figures": {},
    "losses": [{"step": 10, "loss": 2.5}, {"step": 718, "loss": 0.25}],
    "versions": {"lco-embedding": "0.1.0", "torch": "2.14.0"},
    "device": "cuda:0",
    "hardware": "H100",
    "processes": 8,
    "before": None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature without its card, in which a test may put what it likes."""
    copy = tmp_path / "mine"
    shutil.copytree(CHECKPOINTS["embedding"], copy)
    (copy / "README.md").unlink()
    return copy


def put(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_the_code_of_a_card_runs_as_it_stands(folder: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = CODE.findall(write_card(folder).read_text())
    assert [len(re.findall(name, "".join(blocks))) > 0 for name in ("photo", "bell", "clip", "a red circle")] == [
        True
    ] * 4
    place = folder.parent
    Image.open(samples / "images" / "red_circle.png").save(place / "photo.png")
    Image.open(samples / "images" / "orange_cross.webp").save(place / "drawing.png")
    shutil.copy(samples / "sounds" / "voice_seven.wav", place / "bell.wav")
    shutil.copy(samples / "clips" / "red_circle_moves_right.mp4", place / "clip.mp4")
    monkeypatch.chdir(place)
    assert len(blocks) == 5
    for block in blocks:
        shown: list[Any] = []
        exec(block, {"print": shown.append})
        assert len(shown) == 1
        assert shown[0].isfinite().all()
        assert shown[0].numel() in (1, 2, 4)


def test_media_in_the_code_are_read_as_media(folder: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock takes a path that it does not know for a text, in silence."""
    monkeypatch.chdir(samples)
    stock, ours = SentenceTransformer(str(folder), device="cpu"), LCOEmbedding(folder, device="cpu")
    inputs: list[Any] = ["images/red_circle.png", {"audio": "sounds/voice_seven.wav"}]
    assert (stock.encode(inputs) * ours.encode(inputs)).sum(1).min() > 0.99


def test_a_card_tells_what_the_record_says(folder: Path) -> None:
    put(folder, "training_record.json", RECORD)
    text = write_card(folder, LCOModelCardData(license="other", license_name="qwen-research")).read_text()
    for part in ("276,000", "nli.jsonl, org/pairs:train", "281.5 minutes on 8 x H100", "119,734,272", "`lora_r=64`"):
        assert part in text, part
    assert "2.5 at first, 0.25 at the end" in text
    data = metadata_of(text)
    assert data["base_model"] == "Qwen/Qwen2.5-Omni-3B"
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["org/pairs"]
    assert data["license_name"] == "qwen-research"
    assert {"text", "image", "audio", "video", "multimodal", "sentence-transformers"} <= set(data["tags"])
    assert data["library_name"] == "sentence-transformers"
    assert card_errors(text) == []
    card = ModelCard(text)
    assert card.data.pipeline_tag == "feature-extraction"
    assert card.data.base_model == "Qwen/Qwen2.5-Omni-3B"
    assert "1,430,720, bfloat16" in text
    assert "128 dimensions" in text
    assert "Summarize the above video in one word:" in text


def test_a_soup_is_a_merge_of_its_sources(folder: Path) -> None:
    sources = [{"name": f"org/{name}", "share": share, "before": RECORD} for name, share in (("a", 0.25), ("b", 0.75))]
    put(folder, "training_record.json", {"stage": "soup", "sources": sources})
    text = card_text(folder)
    assert "| org/b | 0.75 |" in text
    assert metadata_of(text)["base_model"] == ["org/a", "org/b"]
    assert metadata_of(text)["base_model_relation"] == "merge"


MTEB = {
    "task_name": "Flickr30kT2IRetrieval",
    "mteb_version": "2.26.24",
    "dataset_revision": "x",
    "date": "2026-11-20T10:00:00",
    "scores": {"test": [{"hf_subset": "default", "languages": ["eng-Latn"], "main_score": 0.61234567}]},
    "evaluation_time": 1.0,
    "kg_co2_emissions": None,
}
RESULT = "results/me__mine/abc/Flickr30kT2IRetrieval.json"


def test_figures_come_from_files(folder: Path) -> None:
    figures = {"text to image": {"ndcg@10": 0.747}, "count": 300}
    command = "lco-embedding evaluate --model mine"
    put(folder, "evaluation/world.json", {"name": "Miniature world", "figures": figures, "command": command})
    bounds = {"recall@1": [0.5, 0.625]}
    pairs = {"name": "pairs", "figures": {"recall@1": 0.55}, "intervals": bounds, "command": None}
    put(folder, "evaluation/pairs.json", pairs)
    put(folder, f"evaluation/{RESULT}", MTEB)
    put(folder, "results/me__mine/abc/model_meta.json", {"name": "me/mine"})
    (folder / "analysis").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "analysis" / "kernel_alignment.png")
    text = card_text(folder)
    assert "| text to image ndcg@10 | 0.747 |" in text
    assert "| count | 300 |" in text
    assert "| recall@1 | 0.55 [0.5, 0.625] |" in text
    assert f"made by `{command}`" in text
    assert "### Flickr30kT2IRetrieval" in text
    assert "| test | 0.6123 |" in text
    assert "![kernel alignment](analysis/kernel_alignment.png)" in text
    put(folder, "evaluation/bad.json", ["no object"])
    with pytest.raises(ValueError, match=r"evaluation/bad\.json must be an object"):
        card_text(folder)


def test_scores_are_written_as_mteb_publishes_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task_result = pytest.importorskip("mteb.results.task_result")
    put(folder, RESULT, MTEB)
    assert main(["card", str(folder), "--user", "me"]) == 0
    assert "Flickr30kT2IRetrieval.yaml" in capsys.readouterr().out
    written = yaml.safe_load((folder / ".eval_results" / "Flickr30kT2IRetrieval.yaml").read_text())
    expected = task_result.TaskResult.from_disk(folder / RESULT)._to_hf_benchmark_result("me")
    assert written == yaml.safe_load(expected.to_yaml())
    assert written[0]["value"] == 61.23457


def test_what_a_person_wrote_is_kept(folder: Path) -> None:
    path = write_card(folder, LCOModelCardData(license="mit", language=["en", "de"]))
    text = path.read_text()
    text = text.replace("# mine\n", "# A better title\n\nBy hand, at the top.\n", 1)
    text = text.replace("<!-- generated: prompts -->", "## Caveats\n\nMine.\n\n<!-- generated: prompts -->")
    limits = re.search(r"<!-- generated: limits -->.*?<!-- end of limits -->\n", text, re.DOTALL)
    assert limits is not None
    text = text.replace(limits[0], "## Limits\n\nMy own limits.\n")
    text = text.replace("tags:\n", "thumbnail: picture.png\ntags:\n- my-tag\n")
    path.write_text(text)
    put(folder, "training_record.json", RECORD)
    again = write_card(folder).read_text()
    for part in ("# A better title\n\nBy hand, at the top.", "## Caveats\n\nMine.", "My own limits."):
        assert part in again, part
    assert "generated: limits" not in again, "a section that a person has taken over came back"
    assert again.count("<!-- generated: training -->") == 1
    assert "276,000" in again, "the training was not told anew"
    data = metadata_of(again)
    assert (data["license"], data["language"], data["thumbnail"]) == ("mit", ["en", "de"], "picture.png")
    assert "my-tag" in data["tags"]
    assert data["base_model"] == "Qwen/Qwen2.5-Omni-3B"
    assert write_card(folder).read_text() == again, "a card that is written again changes"


def test_a_card_by_hand_is_added_to_and_a_stock_one_replaced(folder: Path) -> None:
    (folder / "README.md").write_text("# By hand\n\n## Usage\n\nAsk me.\n")
    text = write_card(folder).read_text()
    assert text.startswith("---\n")
    assert "# By hand\n\n## Usage\n\nAsk me.\n" in text
    assert "generated: usage" not in text
    assert "generated: prompts" in text
    (folder / "README.md").write_text("This is a [sentence-transformers](https://www.SBERT.net) model\n")
    assert "SBERT.net) model" not in write_card(folder).read_text()


def test_saving_writes_the_card_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was asked"))
    monkeypatch.setattr(LCOEmbedding, "encode", lambda *args, **kwargs: pytest.fail("something was embedded"))
    card = write_card(folder, LCOModelCardData(license="mit", model_name="Named"))
    card.write_text(card.read_text() + "\n## By hand\n\nKept.\n")
    model = LCOEmbedding(folder, device="cpu")
    model.save_pretrained(tmp_path / "copy")
    text = (tmp_path / "copy" / "README.md").read_text()
    assert "Kept." in text
    assert "contrastive training" in text.lower(), "what is known of the training was lost"
    # After training, the card is of another model; the license is that of its base.
    model.model_card_data.add_tags("generated_from_trainer")
    model.save_pretrained(tmp_path / "tuned")
    text = (tmp_path / "tuned" / "README.md").read_text()
    assert "Kept." not in text
    assert "generated: usage" in text


def test_the_card_of_an_upstream_model_that_was_not_trained_is_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("# Upstream\n\nTheir card.\n")
    LCOEmbedding(folder, device="cpu").save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "# Upstream\n\nTheir card.\n"


def test_the_command_sets_what_only_a_person_knows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--license", "apache-2.0", "--language", "en", "--base-model", "org/base", "--dataset", "org/data"]
    assert main(["card", str(folder), *options, "--name", "Mine", "--repo-id", "me/mine"]) == 0
    text = (folder / "README.md").read_text()
    data = metadata_of(text)
    assert (data["license"], data["base_model"], data["datasets"]) == ("apache-2.0", "org/base", ["org/data"])
    assert "# Mine\n" in text
    assert 'SentenceTransformer("me/mine")' in text
    (folder / "README.md").write_text(text + "## By hand\n")
    assert main(["card", str(folder), "--license", "mit", "--replace"]) == 0
    assert "By hand" not in (folder / "README.md").read_text()
    assert main(["card", "nowhere/at/all"]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_broken_metadata_is_an_error_but_no_reason_to_lose_weights(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "README.md").write_text("---\ntags: [a\n---\n# x\n")
    model = LCOEmbedding(folder, device="cpu")
    model.save_pretrained(target)
    assert (target / "modules.json").is_file()
    assert (target / "README.md").read_text() == "---\ntags: [a\n---\n# x\n"
    with pytest.raises(ValueError, match="not YAML"):
        write_card(target)


def test_records_that_are_not_whole_are_told_as_far_as_they_go(folder: Path) -> None:
    put(folder, "training_record.json", {"stage": "contrastive"})
    assert "### Contrastive" in card_text(folder)
    put(folder, "training_record.json", {"stage": "contrastive", "losses": [{"step": 1}]})
    with pytest.raises(ValueError, match="the training record of mine is not as training writes it"):
        card_text(folder)


def test_what_the_trainer_of_sentence_transformers_knows_is_told(folder: Path) -> None:
    (folder / "training_record.json").unlink()
    data = LCOModelCardData(train_datasets=[{"name": "NLI", "size": 1234, "loss": {"fullname": "a.b.InfoNCE"}}])
    data.non_default_hyperparameters = {"learning_rate": 0.0004}
    data.training_logs = [{"Epoch": 1.0, "Step": 10, "Training Loss": 0.5}]
    data.citations = {"GradCache": "@misc{x}"}
    text = card_text(folder, data)
    assert "Trained on NLI, 1,234 rows, with `InfoNCE`" in text
    assert "`learning_rate=0.0004`" in text
    assert re.search(r"\| 1\.0 +\| 10 +\| 0\.5", text)
    assert "@misc{x}" in text


def test_a_model_that_is_not_at_hand_has_a_card_too() -> None:
    checkpoint = Checkpoint("LCO-Embedding-Omni-7B", backbone=BACKBONES[0], dimension=3584, parameters=8_931_813_888)
    text = card_text(checkpoint, LCOModelCardData(license="mit", base="Qwen/Qwen2.5-Omni-7B"))
    assert "3,584 dimensions" in text
    assert "8,931,813,888" in text
    assert metadata_of(text)["base_model"] == "Qwen/Qwen2.5-Omni-7B"


@pytest.mark.parametrize("name", ["LCO-Embedding-Omni-3B", "LCO-Embedding-Omni-7B", "LCO-Embedding-Omni-3B-2605"])
def test_cards_of_the_published_models_can_be_made(name: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_cards.py"
    published_card = runpy.run_path(str(script))["published_card"]
    text = published_card(name)
    assert f'SentenceTransformer("LCO-Embedding/{name}")' in text
    assert card_errors(text) == []
    assert metadata_of(text)["base_model"] == f"Qwen/Qwen2.5-Omni-{'7' if '7B' in name else '3'}B"


@pytest.mark.parametrize("part", ["embedding", "base"])
def test_the_cards_of_the_miniature_are_up_to_date(part: str) -> None:
    shipped = (CHECKPOINTS[part] / "README.md").read_text()
    assert card_text(CHECKPOINTS[part], earlier=shipped) == shipped
    data = metadata_of(shipped)
    assert data["license"] == "apache-2.0"
    assert data["language"] == ["en"]
