"""Publishing to a stand-in of the Hub: the real client, and then both loaders on what arrived."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lco_embedding import LCOEmbedding
from lco_embedding.cli import main
from lco_embedding.hub.files import published_files
from lco_embedding.hub.publication import Destination, prepared
from tests.hub.conftest import OTHER_TOKEN, READ_TOKEN, TOKEN, WRONG_TOKEN
from tests.hub_client import INPUTS, Client, Done
from tests.hub_server import Fault, Hub

ALL_TOKENS = (TOKEN, READ_TOKEN, OTHER_TOKEN, WRONG_TOKEN)


def clean(done: Done) -> Done:
    """Make sure that no token was shown."""
    assert not any(token in done.output + str(done.error) for token in ALL_TOKENS)
    return done


def test_push_a_private_model_with_a_tag_and_load_it(
    hub: Hub, client: Client, plain: Path, plain_model: LCOEmbedding
) -> None:
    done = clean(client("push", str(plain), "me/pushed", private=True, tag="v1", token=TOKEN))
    assert done.error is None, done.output
    repo = hub.repos["me/pushed"]
    assert repo.private
    assert done.value == f"{hub.url}/me/pushed/commit/{repo.resolve('v1')}"
    assert hub.names("me/pushed") == sorted([".gitattributes", *published_files(plain)])
    assert repo.commits[repo.resolve("v1") or ""]["model.safetensors"].large
    card = hub.text("me/pushed", "README.md")
    assert 'SentenceTransformer("me/pushed")' in card
    assert "license: apache-2.0" in card
    for loader in ("stock", "ours"):
        loaded = clean(client("encode", loader, "me/pushed", revision="v1", token=READ_TOKEN))
        assert loaded.error is None, loaded.output
        np.testing.assert_allclose(np.array(loaded.value), plain_model.encode(INPUTS), atol=1e-5)


def test_a_second_version_wants_to_be_asked_for(hub: Hub, client: Client, plain: Path) -> None:
    hub.add("me/there", plain)
    refused = clean(client("upload", str(plain), repo_id="me/there", exist_ok=False, token=TOKEN))
    assert "me/there exists already; pass exist_ok=True" in str(refused.error)
    card = clean(client("card_on_the_hub", "me/there", token=TOKEN))
    assert card.value == (plain / "README.md").read_text()
    assert client("card_on_the_hub", "me/nowhere", token=TOKEN).value is None


def test_publish_by_the_command_opens_a_pull_request_and_keeps_the_card(
    hub: Hub, client: Client, plain: Path, other: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(plain, folder)
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n## By hand\n\nMind the gap.\n")
    hub.add("me/reviewed", other)
    before = hub.repos["me/reviewed"].resolve("main")
    done = clean(client("command", "publish", str(folder), "me/reviewed", "--create-pr", token=OTHER_TOKEN))
    assert done.value == 0, done.output
    assert f"{hub.url}/me/reviewed/discussions/1" in done.output
    assert hub.repos["me/reviewed"].resolve("main") == before, "the pull request went to main"
    sent = hub.text("me/reviewed", "README.md", "refs/pr/1")
    assert "Mind the gap." in sent
    assert 'SentenceTransformer("me/reviewed")' in sent
    assert 'SentenceTransformer("plain")' in card.read_text(), "the card of the folder was changed"


def test_what_is_wrong_is_listed_and_nothing_is_sent(hub: Hub, client: Client, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(plain, folder)
    torch.save({}, folder / "training_args.bin")
    (folder / "log.txt").write_text(f"using {TOKEN}")
    done = clean(client("command", "publish", str(folder), "me/bad", token=TOKEN))
    assert done.value == 2
    assert "nothing was sent: 3 check(s) of bad failed" in done.output
    assert "training_args.bin is, or may hold, a pickle" in done.output
    assert "log.txt holds the token that you are logged in with" in done.output
    assert not [request for request in hub.requests if request.method in ("POST", "PUT")]
    assert "me/bad" not in hub.repos


def test_an_adapter_alone(hub: Hub, client: Client, plain: Path, adapter: Path, tmp_path: Path) -> None:
    hub.add("me/base", plain)
    named = tmp_path / "named"
    shutil.copytree(adapter, named)
    config = json.loads((named / "adapter_config.json").read_text())
    (named / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "me/base"}))
    arguments = ("publish", str(named), "me/lora", "--adapter-only", "--revision", "trial", "--tag", "t1")
    done = clean(client("command", *arguments, token=TOKEN))
    assert done.value == 0, done.output
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert hub.names("me/lora", "trial") == [".gitattributes", *names]
    assert hub.names("me/lora", "t1") == hub.names("me/lora", "trial")
    assert hub.names("me/lora", "main") == [".gitattributes"]
    card = hub.text("me/lora", "README.md", "trial")
    assert "base_model: me/base" in card
    assert "base_model_relation: adapter" in card
    assert "license: apache-2.0" in card, "the license of the base was not taken over"
    loaded = clean(client("encode", "ours", "me/lora", revision="t1"))
    expected = LCOEmbedding(adapter, device="cpu").encode(INPUTS)
    np.testing.assert_allclose(np.array(loaded.value), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("PUT", "/lfs/", status=400), "Error while uploading"),
        (Fault("POST", "/commit/", status=500), "500"),
        (Fault("POST", "/commit/"), "broke off"),
        (Fault("POST", "/repos/create", status=502), "502"),
    ],
)
def test_an_upload_that_fails_is_completed_by_a_repeat(
    hub: Hub, client: Client, plain: Path, other: Path, fault: Fault, reason: str, tmp_path: Path
) -> None:
    repo = f"me/broken-{len(hub.repos)}"
    folder = tmp_path / "folder"
    shutil.copytree(other, folder)
    # So that it is not known from another repository.
    change = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change | {"note": repo}))
    torch_file = folder / "model.safetensors"
    torch_file.write_bytes(_renamed(torch_file.read_bytes(), len(hub.repos)))
    hub.faults.append(fault)
    done = clean(client("upload", str(folder), repo_id=repo, token=TOKEN))
    assert done.error is not None
    assert reason in done.error, done.error
    assert "files that have arrived are not sent again" in done.error
    # Where only the answer was lost, all has arrived.
    is_lost = fault.status is None
    assert repo not in hub.repos or is_lost or hub.names(repo) == [".gitattributes"]
    sent = len(hub.found("PUT", "/lfs/")) if "commit" in fault.pattern else 0
    again = clean(client("upload", str(folder), repo_id=repo, token=TOKEN))
    assert again.error is None, again.output
    assert hub.names(repo) == sorted([".gitattributes", *published_files(folder)])
    if sent:
        assert len(hub.found("PUT", "/lfs/")) == sent, "what had arrived was sent again"


def _renamed(content: bytes, number: int) -> bytes:
    """Return other weights, of the same size."""
    return content[:-8] + number.to_bytes(8, "little")


def test_a_connection_that_drops_once_is_no_failure(hub: Hub, client: Client, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(plain, folder)
    path = folder / "model.safetensors"
    path.write_bytes(_renamed(path.read_bytes(), 77))
    hub.faults.append(Fault("PUT", "/lfs/", after=100_000))
    done = clean(client("upload", str(folder), repo_id="me/dropped", token=TOKEN))
    assert done.error is None, done.output
    assert len(hub.found("PUT", "/lfs/")) == 2
    hub.requests.clear()
    # The same again: nothing is new.
    done = clean(client("upload", str(folder), repo_id="me/dropped", token=TOKEN, tag="v2"))
    assert done.error is None, done.output
    assert not hub.found("PUT", "/lfs/")
    taken = clean(client("upload", str(folder), repo_id="me/dropped", token=TOKEN, tag="v2"))
    assert "has a tag 'v2' already; nothing was sent" in str(taken.error)


@pytest.mark.parametrize("token", [WRONG_TOKEN, READ_TOKEN, OTHER_TOKEN])
def test_a_token_that_may_not_write(hub: Hub, client: Client, plain: Path, token: str) -> None:
    hub.add("me/closed", plain)
    done = clean(client("upload", str(plain), repo_id="me/closed", token=token))
    assert "Your token may not write to me/closed" in str(done.error), done.error
    assert not hub.found("POST", "/commit/")


def test_old_weights_do_not_stay_beside_new_ones(hub: Hub, client: Client, plain: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(plain, old)
    shutil.move(old / "model.safetensors", old / "model-00001-of-00001.safetensors")
    torch.save({}, old / "pytorch_model.bin")
    (old / "notes.md").write_text("kept")
    hub.add("me/resharded", old)
    assert clean(client("upload", str(plain), repo_id="me/resharded", token=TOKEN)).error is None
    assert hub.names("me/resharded") == sorted([*published_files(plain), "notes.md"])


def test_dry_run_shows_files_and_card_and_asks_for_no_network(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was asked"))
    monkeypatch.setattr("lco_embedding.hub.verification.verify", lambda *args, **kwargs: [])
    before = (plain / "README.md").read_text()
    assert main(["publish", str(plain), "me/model", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for name in published_files(plain):
        if name != "README.md":
            assert f"{(plain / name).stat().st_size:,}  {name}" in shown
    assert 'SentenceTransformer("me/model")' in shown
    assert "0 check(s) failed; nothing was sent" in shown
    assert (plain / "README.md").read_text() == before


def test_options_that_exclude_each_other(plain_model: LCOEmbedding, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="opened against main"):
        Destination("me/x", create_pr=True, revision="trial")
    with pytest.raises(ValueError, match="can't be tagged"):
        plain_model.push_to_hub("me/x", create_pr=True, tag="v1")
    with pytest.raises(ValueError, match="pickled weights"):
        plain_model.push_to_hub("me/x", safe_serialization=False)
    assert main(["publish", "nowhere/at/all", "me/x"]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_what_is_prepared_is_the_checkpoint_with_the_card_of_its_repository(plain: Path) -> None:
    with prepared(plain, "me/model", earlier="---\nlicense: mit\n---\n# Mine\n\nBy hand.\n") as staged:
        card = (staged / "README.md").read_text()
        assert published_files(staged) == published_files(plain)
    assert "# Mine\n\nBy hand." in card
    assert "license: mit" in card
    assert 'SentenceTransformer("me/model")' in card
