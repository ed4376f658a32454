"""What is verified before a checkpoint is sent: a good one passes, and every fault is found and listed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lco_embedding import LCOEmbedding
from lco_embedding.hub import Finding, VerificationError, probes, verify
from lco_embedding.hub.files import check_files, published_files, stage
from lco_embedding.hub.verification import check_config
from lco_embedding.modules.chat_template import without_prompts


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """A copy of the plain checkpoint that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(plain, folder)
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def messages(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def test_a_good_checkpoint_passes(plain: Path, plain_model: LCOEmbedding) -> None:
    assert verify(plain, plain_model) == []


def test_embeddings_and_prompts_are_compared_with_the_model_in_memory(copy: Path, plain_model: LCOEmbedding) -> None:
    template = copy / "chat_template.jinja"
    template.write_text(str(without_prompts(template.read_text())))
    found = verify(copy, plain_model)
    assert {finding.check for finding in found} == {"prompts", "embeddings"}
    for probe in ("text", "image", "audio", "video", "mixture"):
        assert sum(f"of the {probe} probe" in str(finding) for finding in found) == 1
        assert sum(f"for {probe} content" in str(finding) for finding in found) == 1


def test_what_stock_cannot_load_is_told(copy: Path, plain_model: LCOEmbedding) -> None:
    change(copy / "config_sentence_transformers.json", requirements={"sentence-transformers": ">=99"})
    found = verify(copy, plain_model)
    assert [finding.check for finding in found] == ["loading"]
    assert "SentenceTransformer in a fresh process" in str(found[0])
    assert "99" in str(found[0])


def test_all_that_fails_is_listed_without_loading_anything(
    copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a pickle was read"))
    secret = "hf_" + "Q" * 34
    torch.save({}, copy / "pytorch_model.bin")
    (copy / "notes.txt").write_text(f"first\ntoken: {secret}\n")
    change(copy / "config.json", architectures=["Qwen2_5OmniThinkerModel"], dtype="bfloat16")
    change(copy / "config_sentence_transformers.json", where="/home/someone/out", windows="C:\\Users\\someone\\out")
    (copy / "modeling.py").write_text("import os\n")
    (copy / "README.md").write_text("---\ntags: omni\nlibrary_name: peft\n---\n![plot](analysis/gone.png)\n")
    modules = (copy / "modules.json").read_text()
    (copy / "modules.json").write_text(modules.replace("sentence_transformers.base", "mine", 1))
    found = verify(copy)
    text = messages(found)
    for part in (
        "pytorch_model.bin is, or may hold, a pickle",
        "notes.txt, line 2, holds what looks like a token of the Hugging Face Hub",
        "config.json names Qwen2_5OmniThinkerModel, not the generation class Qwen2_5OmniThinkerForConditional",
        "config.json states bfloat16, but",
        "(/home/someone...)",
        "modeling.py is code",
        "modules.json names mine.",
        "no license is stated",
        "no base model is stated",
        "tags in the metadata must be a list",
        "library_name in the metadata must be sentence-transformers",
        "shows analysis/gone.png, which is not there",
    ):
        assert part in text, part
    assert secret not in text, "the secret was shown"
    assert all(str(finding) in str(VerificationError(copy, found)) for finding in found)


@pytest.mark.parametrize(
    ("name", "text", "is_bad"),
    [
        ("training_record.json", '{"data": "/data/nli/train.jsonl"}', True),
        ("config.json", '{"cache": "D:\\\\models\\\\qwen"}', True),
        ("notes.md", "see file:///opt/notes", True),
        ("notes.md", "see https://host/home/page and and/or, 1/2, a /b", False),
        ("tokenizer.json", '{"vocab": {"/home/user": 1}}', False),
        ("notes.md", "key AKIA" + "A" * 16, True),
        ("notes.md", "ghp_" + "a" * 36, True),
        ("notes.md", "https://user:pass@host/x", True),
        ("notes.md", "-----BEGIN RSA PRIVATE KEY-----", True),
        ("notes.md", "Authorization: Bearer abcdefgh1234", True),
        ("notes.md", "hf_hub_download and sk-learn are no keys", False),
    ],
)
def test_paths_and_secrets(plain: Path, tmp_path: Path, name: str, text: str, is_bad: bool) -> None:
    shutil.copy(plain / "model.safetensors", tmp_path)
    (tmp_path / name).write_text(text)
    found = [finding for finding in check_files(tmp_path) if finding.check in ("paths", "secrets")]
    assert bool(found) == is_bad, messages(found)


def test_the_token_in_use_is_found_whatever_it_looks_like(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "odd-looking")
    (copy / "notes.md").write_text("with odd-looking words")
    found = list(check_files(copy))
    assert "the token that you are logged in with" in messages(found)
    assert "odd-looking" not in messages(found)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _broken(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")


def _absent(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _two_shards(folder: Path, **index: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, where = sorted(weights), {}
    for number, part in enumerate((names[:50], names[50:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    content = {"metadata": {"total_size": total}, "weight_map": where} | index
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _wrong_total(folder: Path) -> None:
    _two_shards(folder, metadata={"total_size": 7})


def _wrong_map(folder: Path) -> None:
    _two_shards(folder, weight_map={"a": "model-00001-of-00002.safetensors"})


def _lost_shard(folder: Path) -> None:
    _two_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_cut, "is it cut off?"),
        (_broken, "is no safetensors file"),
        (_absent, "there are no safetensors"),
        (_wrong_total, "states 7 bytes"),
        (_wrong_map, "differ in"),
        (_lost_shard, "names model-00002-of-00002.safetensors, which is not there"),
        (_two_shards, ""),
    ],
)
def test_weights_are_as_stated(copy: Path, spoil: Callable[[Path], None], reason: str) -> None:
    spoil(copy)
    found = messages([finding for finding in check_files(copy) if finding.check == "weights"])
    assert (reason in found) if reason else not found


def test_an_adapter_must_name_a_base_that_others_have(adapter: Path) -> None:
    found = list(check_config(adapter))
    assert [finding.check for finding in found] == ["base model"]
    assert "which others can't load" in str(found[0])


def test_what_training_leaves_behind_is_not_published(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(plain, folder)
    expected = published_files(plain)
    for name in ("checkpoint-100/optimizer.pt", "runs/events.out", ".git/config", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "Task.yaml").write_text("[]")
    assert published_files(folder) == sorted([".eval_results/Task.yaml", *expected])
    stage(folder, tmp_path / "staged")
    assert published_files(tmp_path / "staged") == published_files(folder)
    assert (tmp_path / "staged" / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_probes_are_the_same_every_time_and_cover_every_kind() -> None:
    kinds = ["text", "image", "audio", "video"]
    first, second = probes.probes(kinds), probes.probes(kinds)
    assert list(first) == [*kinds, "mixture"]
    assert np.array_equal(first["image"], second["image"])
    assert first["image"].std() > 10
    assert np.array_equal(first["audio"]["array"], second["audio"]["array"])
    assert list(probes.probes(["text"])) == ["text"]
    assert list(probes.chats(kinds)) == [*kinds, "mixture"]


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        verify("nowhere/at/all")
