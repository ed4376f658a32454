"""Commands in processes that are killed, interrupted or out of space at a chosen moment.

The libraries are imported once, and every command runs in a fork of that process. Moments are the changes that Python
makes in a folder (files opened for writing, renamed or removed), as audit hooks see them before they happen.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


class Done(NamedTuple):
    """The exit status of a command (negative: the signal that killed it), its output and the changes it made."""

    status: int
    output: str
    changes: list[str]


@dataclass
class Forks:
    """Runs commands of `lco-embedding`."""

    process: subprocess.Popen[str]
    folder: Path
    count: int = 0

    def __call__(
        self,
        *argv: str | Path,
        watched: Path | None = None,
        at: int | str | None = None,
        send: signal.Signals = signal.SIGKILL,
        file_bytes: int | None = None,
    ) -> Done:
        """Run a command.

        Args:
            argv: The words after `lco-embedding`.
            watched: Folder in which changes are counted.
            at: Number of a change, or a part of its text, before which the process gets a signal.
            send: The signal.
            file_bytes: Size that no file may exceed; writing more fails as on a full disk.
        """
        self.count += 1
        place = self.folder / str(self.count)
        asked = {"argv": list(map(str, argv)), "watched": str(watched), "at": at, "send": int(send)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**asked, "file_bytes": file_bytes, "place": str(place)}) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        output, changes = (place.with_suffix(suffix).read_text() for suffix in (".out", ".changes"))
        return Done(status, output, changes.splitlines())


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    """Start the process that is forked."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Forks(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _watch(asked: dict[str, Any]) -> None:
    folder, at, count = asked["watched"], asked["at"], 0
    changes = os.open(asked["place"] + ".changes", os.O_WRONLY | os.O_APPEND)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in EVENTS or (event == "open" and not (isinstance(args[2], int) and args[2] & os.O_ACCMODE)):
            return
        paths = [os.fspath(path) for path in args[:2] if isinstance(path, str | os.PathLike)]
        if not any(str(path).startswith(folder) for path in paths):
            return
        text = " ".join([event, *(os.path.relpath(path, folder) for path in paths)])
        os.write(changes, f"{text}\n".encode())
        count += 1
        if at == count or (isinstance(at, str) and at in text):
            os.kill(os.getpid(), asked["send"])

    sys.addaudithook(hook)


def _work(asked: dict[str, Any]) -> int:
    for suffix in (".out", ".changes"):
        Path(asked["place"] + suffix).touch()
    output = os.open(asked["place"] + ".out", os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if asked["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"],) * 2)
    _watch(asked)
    from lco_embedding.cli import main as run

    status = run(asked["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    """Fork a process for every line of the standard input."""
    import lco_embedding.training.contrastive
    import lco_embedding.training.generative  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = _work(json.loads(line))
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
