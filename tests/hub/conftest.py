"""Tiny checkpoints to publish, and a stand-in of the Hub with clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from lco_embedding import LCOEmbedding
from lco_embedding.model_cards import LCOModelCardData
from tests.hub_client import Client, serving_jobs
from tests.hub_server import Hub, serving

TOKEN, READ_TOKEN, OTHER_TOKEN = "hf_" + "s" * 30, "hf_" + "r" * 30, "hf_" + "o" * 30
WRONG_TOKEN = "hf_" + "w" * 30


@pytest.fixture(scope="session")
def plain(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is fit to be published; not to be changed."""
    folder = tmp_path_factory.mktemp("plain") / "plain"
    data = LCOModelCardData(license="apache-2.0", language="en", base="org/base")
    LCOEmbedding(thinker, device="cpu", model_card_data=data).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_model(plain: Path) -> LCOEmbedding:
    """The model of the plain checkpoint; not to be changed."""
    return LCOEmbedding(plain, device="cpu")


@pytest.fixture(scope="session")
def other(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint like the plain one, with other weights, another chat template and other settings."""
    folder = tmp_path_factory.mktemp("other") / "other"
    model = LCOEmbedding(thinker, device="cpu", processing_kwargs={"text": {"max_length": 2}})
    model.processor.chat_template = model.processor.chat_template.replace("Summarize", "Shorten")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the plain checkpoint, as training leaves it."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    torch.manual_seed(0)
    model = LCOEmbedding(plain, device="cpu")
    model.add_adapter(LoraConfig(r=4, target_modules=model.omni.backbone.lora_targets, init_lora_weights=False))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A stand-in of the Hub."""
    users = {TOKEN: "me", READ_TOKEN: "reader of me", OTHER_TOKEN: "other"}
    with serving(tmp_path_factory.mktemp("hub"), users) as running:
        yield running


@pytest.fixture(scope="session")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Runs jobs against the stand-in."""
    with serving_jobs(hub.url, tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> None:
    """No faults but those of the test, and only its requests."""
    if "hub" in request.fixturenames:
        running = request.getfixturevalue("hub")
        running.faults.clear()
        running.requests.clear()
        running.after_request = None
