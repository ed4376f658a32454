"""`train --push_to_hub`: what is trained is verified and sent, to a stand-in of the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lco_embedding import LCOEmbedding
from lco_embedding.cli import main
from tests.hub.conftest import TOKEN, WRONG_TOKEN
from tests.hub_client import INPUTS, Client
from tests.hub_server import Hub
from tests.training.test_contrastive import triplets


@pytest.fixture
def words(plain: Path, tmp_path: Path) -> list[str]:
    """A training command."""
    data = tmp_path / "triplets.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in triplets(4)))
    options = {"model": plain, "data": data, "output_dir": tmp_path / "out", "max_steps": 1, "save_steps": 1}
    options |= {"per_device_train_batch_size": 2, "lora_r": 2, "report_to": "none", "resume_from_checkpoint": "last"}
    return ["--use_cpu", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def push(repo: str, token: str = TOKEN) -> list[str]:
    return ["--push_to_hub", "true", "--hub_model_id", repo, "--hub_token", token]


def test_the_result_is_verified_and_sent(
    hub: Hub, client: Client, plain: Path, words: list[str], tmp_path: Path
) -> None:
    hub.add("me/base", plain)
    done = client("command", "train", *words, *push("me/trained"), "--hub_private_repo", "true", "--model", "me/base")
    assert done.value == 0, done.output
    assert hub.repos["me/trained"].private
    names = hub.names("me/trained")
    assert {"model.safetensors", "modules.json", "README.md", "training_record.json"} <= set(names)
    assert not [name for name in names if name.endswith(".bin") or "adapter" in name or "checkpoint" in name]
    loaded = client("encode", "stock", "me/trained", token=TOKEN)
    expected = LCOEmbedding(tmp_path / "out", device="cpu").encode(INPUTS)
    np.testing.assert_allclose(np.array(loaded.value), expected, atol=1e-5)
    card = hub.text("me/trained", "README.md")
    assert "base_model: me/base" in card
    assert "license: apache-2.0" in card
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()], "the token was written"
    assert not [path for path in written if path.name == "training_args.bin"]
    assert TOKEN not in done.output


def test_what_is_not_fit_is_not_sent_and_can_be_sent_later(
    hub: Hub, client: Client, words: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    failed = client("command", "train", *words, *push("me/later"))
    assert failed.value == 2
    assert "card: no base model is stated" in failed.output
    assert f"The result is in {output}" in failed.output
    assert "me/later" not in hub.repos
    main(["card", str(output), "--license", "mit", "--base-model", "org/base"])
    again = client("command", "train", *words, *push("me/later"))
    assert again.value == 0, again.output
    assert "there is no further step to train" in again.output
    assert "model.safetensors" in hub.names("me/later")


def test_a_wrong_token_is_known_before_the_first_step(
    hub: Hub, client: Client, words: list[str], tmp_path: Path
) -> None:
    failed = client("command", "train", *words, *push("me/never", WRONG_TOKEN))
    assert failed.value == 2
    assert WRONG_TOKEN not in failed.output
    assert not (tmp_path / "out").exists()
    assert "me/never" not in hub.repos


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("train", ["--keep", "adapter"], "needs a base on the Hub"),
        ("train", ["--hub_strategy", "every_save"], "hub_strategy=every_save is not supported"),
        ("pretrain", [], "push_to_hub is not supported by pretrain"),
    ],
)
def test_what_can_not_be_pushed_is_refused(
    command: str, options: list[str], reason: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *words, *push("me/refused"), *options]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
