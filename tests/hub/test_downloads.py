"""Loading from the Hub: one revision for all, tokens, the cache, interruptions, hints; no pickles, no foreign code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lco_embedding import LCOEmbedding
from lco_embedding.checkpoints.downloads import hinted
from tests.hub.conftest import OTHER_TOKEN, READ_TOKEN, TOKEN, WRONG_TOKEN
from tests.hub_client import INPUTS, Client, Done, environment
from tests.hub_server import Fault, Hub, Request

FRESH = """
import sys, numpy
from {package} import {loader}
numpy.save({output!r}, {loader}({name!r}, device="cpu").encode({inputs!r}))
assert {loader!r} != "SentenceTransformer" or not any(name.startswith("lco_embedding") for name in sys.modules)
"""


def same(done: Done, model: LCOEmbedding) -> bool:
    assert done.error is None, done.output
    return bool(np.abs(np.array(done.value) - model.encode(INPUTS)).max() < 1e-5)


@pytest.fixture(scope="module")
def other_model(other: Path) -> LCOEmbedding:
    return LCOEmbedding(other, device="cpu")


def test_both_loaders_in_fresh_processes_then_offline(
    hub: Hub, plain: Path, plain_model: LCOEmbedding, tmp_path: Path
) -> None:
    hub.add("me/plain", plain)
    env = environment(hub.url, tmp_path / "home")
    for package, loader in (("sentence_transformers", "SentenceTransformer"), ("lco_embedding", "LCOEmbedding")):
        output = str(tmp_path / f"{loader}.npy")
        code = FRESH.format(package=package, loader=loader, name="me/plain", output=output, inputs=INPUTS)
        if loader == "LCOEmbedding":
            # What stock has downloaded is in the cache, and enough.
            hub.requests.clear()
            env["HF_HUB_OFFLINE"] = "1"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        np.testing.assert_allclose(np.load(output), plain_model.encode(INPUTS), atol=1e-5)
    assert not hub.requests


def test_a_revision_is_that_of_weights_processor_template_and_settings(
    hub: Hub, client: Client, plain: Path, other: Path, plain_model: LCOEmbedding, other_model: LCOEmbedding
) -> None:
    first = hub.add("me/revisions", plain)
    hub.repos["me/revisions"].refs["refs/tags/v1"] = first
    second = hub.add("me/revisions", other)
    assert np.abs(plain_model.encode(INPUTS) - other_model.encode(INPUTS)).max() > 1e-3
    assert same(client("encode", "ours", "me/revisions", revision="v1"), plain_model)
    asked = [request.path for request in hub.requests if "/resolve/" in request.path or "/tree/" in request.path]
    assert asked
    assert all(first in path for path in asked)
    assert same(client("encode", "ours", "me/revisions"), other_model)
    assert same(client("encode", "ours", "me/revisions", revision=first), plain_model)
    assert same(client("encode", "ours", "me/revisions", revision=second, local_files_only=True), other_model)


def test_a_branch_that_moves_meanwhile_changes_nothing(
    hub: Hub, client: Client, plain: Path, other: Path, plain_model: LCOEmbedding, tmp_path: Path
) -> None:
    """The new commit has another default template and one by the name that the settings of the first ask for."""
    hub.add("me/moving", plain)
    moved = tmp_path / "moved"
    shutil.copytree(other, moved)
    (moved / "additional_chat_templates").mkdir()
    shutil.copy(moved / "chat_template.jinja", moved / "additional_chat_templates" / "new.jinja")

    def move(request: Request) -> None:
        if request.path.endswith("modules.json"):
            hub.after_request = None
            hub.add("me/moving", moved)

    hub.after_request = move
    assert same(client("encode", "ours", "me/moving"), plain_model)
    assert hub.after_request is None, "the branch did not move"
    assert not hub.found("GET", "/tree/main"), "the templates of the branch were listed"


def test_an_adapter_pins_its_base(
    hub: Hub, client: Client, plain: Path, other: Path, adapter: Path, tmp_path: Path
) -> None:
    first = hub.add("me/base", plain)
    expected = LCOEmbedding(adapter, device="cpu")
    named = tmp_path / "named"
    shutil.copytree(adapter, named)
    config = json.loads((named / "adapter_config.json").read_text())
    (named / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "me/base"}))
    hub.add("me/adapter", named)
    done = client("base_of_saved_adapter", "me/adapter", str(tmp_path / "saved"))
    assert done.value == ["me/base", first], done.output
    hub.add("me/pinned", tmp_path / "saved")
    hub.add("me/base", other)
    assert same(client("encode", "ours", "me/pinned"), expected)
    # Alone, without the modules that Sentence Transformers writes beside it, it finds those of its base.
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "saved" / name, alone)
    hub.add("me/alone", alone)
    hub.requests.clear()
    assert same(client("encode", "ours", "me/alone"), expected)
    asked = [request.path for request in hub.requests if "/me/base/" in request.path and "/api/" not in request.path]
    assert all(first in path for path in asked)


def test_an_adapter_whose_base_has_changed_its_history(
    hub: Hub, client: Client, plain: Path, adapter: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named"
    shutil.copytree(adapter, named)
    config = json.loads((named / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "me/rewritten", "revision": "1234567890" * 4}
    (named / "adapter_config.json").write_text(json.dumps(config))
    hub.add("me/rewritten", plain)
    hub.add("me/orphan", named)
    for path in ("me/orphan", str(named)):
        done = client("encode", "ours", path)
        assert done.error is not None
        assert done.error.startswith(f"ValueError: the adapter {path} was trained on me/rewritten at 1234567890"), (
            done.error
        )
        assert "gone from the Hub" in done.error


def test_private_repositories_want_the_right_token(
    hub: Hub, client: Client, plain: Path, plain_model: LCOEmbedding
) -> None:
    hub.add("me/secret", plain, private=True)
    for token in (None, WRONG_TOKEN, OTHER_TOKEN):
        done = client("encode", "ours", "me/secret", token=token)
        assert done.error is not None
        assert "me/secret" in done.error
        assert "needs a token that may read it" in done.error
        assert token is None or token not in done.output + done.error
    done = client("encode", "ours", "me/secret", token=READ_TOKEN)
    assert same(done, plain_model)
    assert READ_TOKEN not in done.output
    assert not any(request.authorized for request in hub.found("GET", "/cdn/")), "the token went to another host"
    assert same(client("encode", "stock", "me/secret", token=TOKEN), plain_model)


@pytest.mark.parametrize(
    ("name", "options", "error", "hint"),
    [
        ("me/nowhere", {}, "RepositoryNotFoundError", "Is 'me/nowhere' spelt right?"),
        ("me/hints", {"revision": "v9"}, "RevisionNotFoundError", "There is no branch, tag or commit 'v9'"),
        ("me/empty", {}, "ValueError", "me/empty is not complete, or no model"),
        ("me/pickled", {}, "OSError", "weights in pickles are not read"),
        ("me/uncached", {"local_files_only": True}, "OSError", "`hf download me/uncached` fetches it"),
    ],
)
def test_what_is_missing_is_told_with_a_hint(
    hub: Hub, client: Client, plain: Path, tmp_path: Path, name: str, options: dict[str, str], error: str, hint: str
) -> None:
    hub.add("me/hints", plain)
    (tmp_path / "README.md").write_text("nothing here")
    hub.add("me/empty", tmp_path)
    pickled = tmp_path / "pickled"
    shutil.copytree(plain, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"weight": torch.zeros(1)}, pickled / "pytorch_model.bin")
    hub.add("me/pickled", pickled)
    done = client("encode", "ours", name, **options)
    assert done.error is not None
    assert done.error.startswith(error), done.error
    assert hint in done.error
    assert not hub.found("GET", r"pytorch_model\.bin|cdn"), "a pickle was downloaded"


def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: Hub, client: Client, plain: Path, plain_model: LCOEmbedding, tmp_path: Path
) -> None:
    """The client keeps what has arrived in pieces of 10 MiB, so the file must be larger than that."""
    folder = tmp_path / "folder"
    shutil.copytree(plain, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "lm_head.weight": torch.zeros(4_000_000)}, folder / "model.safetensors", {"format": "pt"})
    hub.add("me/broken", folder)
    hub.faults.append(Fault("GET", "/cdn/", after=12_000_000))
    assert same(client("encode", "ours", "me/broken"), plain_model)
    assert [request.range for request in hub.found("GET", "/cdn/")] == [None, f"bytes={10 * 1024 * 1024}-"]


def test_a_server_that_fails_leaves_what_has_arrived(
    hub: Hub, client: Client, other: Path, other_model: LCOEmbedding
) -> None:
    hub.add("me/failing", other)
    hub.faults.append(Fault("GET", "/cdn/", status=500))
    done = client("encode", "ours", "me/failing")
    assert done.error is not None
    assert "500" in done.error
    assert "the same call goes on from there" in done.error
    hub.requests.clear()
    assert same(client("encode", "ours", "me/failing"), other_model)
    assert len(hub.found("GET", "/cdn/")) == 1
    assert not hub.found("GET", "/resolve/.*modules.json"), "what had arrived was asked for again"


def test_pickles_of_modules_are_not_read(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(plain, folder)
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    (folder / "3_Dense").mkdir()
    settings = {"in_features": 128, "out_features": 8, "bias": False, "activation_function": "torch.nn.Identity"}
    (folder / "3_Dense" / "config.json").write_text(json.dumps(settings))
    torch.save({"linear.weight": torch.zeros(8, 128)}, folder / "3_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="3_Dense in a pickle, which is not read"):
        LCOEmbedding(folder, device="cpu")


def test_an_adapter_in_a_pickle_is_not_read(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "folder", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, tmp_path / "folder" / "adapter_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        LCOEmbedding(tmp_path / "folder", device="cpu")


def test_code_of_a_repository_runs_only_at_the_users_word(
    hub: Hub, client: Client, plain: Path, tmp_path: Path
) -> None:
    folder, trap = tmp_path / "folder", tmp_path / "sprung"
    shutil.copytree(plain, folder)
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(trap)!r}).touch()\nclass Evil: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    hub.add("me/evil", folder)
    done = client("encode", "ours", "me/evil")
    assert done.error is not None
    assert "trust_remote_code" in done.error
    assert not trap.exists()
    client("encode", "ours", "me/evil", trust_remote_code=True)
    assert trap.exists(), "the trap does not work, so that it proves nothing"


def test_errors_of_folders_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, hinted(str(tmp_path), None):
        raise FileNotFoundError("couldn't find them in the cached files")
    assert "hf download" not in str(caught.value)
