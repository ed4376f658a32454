"""Atomic writes: what is killed or fails on the way leaves what was there, and does not block a repeat."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig
from safetensors import SafetensorError

from lco_embedding import LCOEmbedding
from lco_embedding.atomic_writes import PARTIAL, atomic_file, atomic_folder, is_free, write_text
from tests.forks import Forks, forking


def killed(function: Callable[[], None]) -> None:
    """Run a function that kills its process."""
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_file_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.npz"
    write_text(path, "good")

    def half() -> None:
        with atomic_file(path) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    killed(half)
    assert path.read_text() == "good"
    write_text(path, "better")
    assert path.read_text() == "better"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.npz"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "data" / "file").read_text() == "text"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("before", ["missing", "empty", "filled"])
def test_a_folder_appears_when_it_is_complete(before: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if before != "missing":
        target.mkdir()
    if before == "filled":
        (target / "config.json").write_text("old")
        (target / "kept.txt").write_text("kept")
    state = sorted((path.name, path.read_text()) for path in target.glob("*")) if target.exists() else None

    def written(partial: Path) -> None:
        assert partial.name == "target"
        (partial / "config.json").write_text("new")
        (partial / "part").mkdir()
        (partial / "part" / "file").write_text("new")

    def half() -> None:
        with atomic_folder(target) as partial:
            written(partial)
            os.kill(os.getpid(), signal.SIGKILL)

    killed(half)
    left = [path for path in target.glob("*") if not path.name.startswith(PARTIAL)] if target.exists() else []
    assert sorted((path.name, path.read_text()) for path in left) == (state or [])
    assert is_free(target) == (before != "filled")
    with atomic_folder(target) as partial:
        written(partial)
    assert (target / "config.json").read_text() == (target / "part" / "file").read_text() == "new"
    assert (target / "kept.txt").exists() == (before == "filled")
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("good")

    def fail(writer: Any, path: Path, error: Exception) -> None:
        with writer(path):
            raise error

    with pytest.raises(ZeroDivisionError):
        fail(atomic_file, tmp_path / "file", ZeroDivisionError())
    with pytest.raises(OSError, match=r"folder is not written.*no space"):
        fail(atomic_folder, tmp_path / "folder", SafetensorError("no space"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "good"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_the_older_one(small_disk: Path) -> None:
    write_text(small_disk / "file", "good")
    with pytest.raises(OSError, match="No space left"):
        write_text(small_disk / "file", "x" * 200_000)
    with pytest.raises(OSError, match="No space left"), atomic_folder(small_disk) as partial:
        (partial / "file").write_text("x" * 200_000)
    assert [(path.name, path.read_text()) for path in small_disk.iterdir()] == [("file", "good")]
    # A folder that is mounted can't be replaced, and is filled.
    (small_disk / "file").unlink()
    with atomic_folder(small_disk) as partial:
        (partial / "file").write_text("new")
    assert [(path.name, path.read_text()) for path in small_disk.iterdir()] == [("file", "new")]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forking(tmp_path_factory.mktemp("forks")) as running:
        yield running


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_encode_keeps_the_older_table(suffix: str, forks: Forks, thinker: Path, tmp_path: Path) -> None:
    output, rows = tmp_path / "out" / f"table{suffix}", tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(f"text {n}") + "\n" for n in range(40)))
    command = ("encode", rows, "--model", thinker, "--device", "cpu", "--output", output)
    assert forks(*command).status == 0
    good = output.read_bytes()
    assert forks(*command, watched=output.parent, at="os.rename").status == -signal.SIGKILL
    assert output.read_bytes() == good
    full = forks(*command, file_bytes=1000)
    assert full.status == 2
    assert "Traceback" not in full.output
    assert output.read_bytes() == good
    assert forks(*command).status == 0
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    if suffix == ".npz":
        assert np.load(output)["embedding"].shape[0] == 40


@pytest.mark.parametrize("command", ["merge", "export"])
def test_a_killed_folder_does_not_block_the_repeat(command: str, forks: Forks, thinker: Path, tmp_path: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=model.omni.backbone.lora_targets))
    model.save_pretrained(tmp_path / "adapter", create_model_card=False)
    output = tmp_path / "output"
    assert forks(command, tmp_path / "adapter", output, watched=tmp_path, at="modules.json").status == -signal.SIGKILL
    assert not output.exists()
    full = forks(command, tmp_path / "adapter", output, file_bytes=100_000)
    assert full.status == 2, full.output
    assert "Traceback" not in full.output
    assert not output.exists()
    assert forks(command, tmp_path / "adapter", output).status == 0
    assert (output / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "output"]
