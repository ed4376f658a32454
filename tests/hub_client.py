"""A client of the stand-in of the Hub: the real libraries, in a fresh process for each job.

The libraries are imported once, in a process that has never seen the stand-in, and every job runs in a fork of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Done(NamedTuple):
    """What came of a job: its value, the message of an error, and all that was printed."""

    value: Any
    error: str | None
    output: str


@dataclass
class Client:
    """Runs jobs."""

    process: subprocess.Popen[str]
    folder: Path
    count: int = 0

    def __call__(self, job: str, *args: Any, token: str | None = None, **kwargs: Any) -> Done:
        """Run a function of this file in a fresh process."""
        self.count += 1
        place = self.folder / str(self.count)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"job": job, "args": args, "kwargs": kwargs, "token": token, "place": str(place)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        answer = json.loads(place.with_suffix(".json").read_text())
        return Done(answer["value"], answer["error"], place.with_suffix(".txt").read_text())


def environment(url: str, home: Path) -> dict[str, str]:
    """The environment of a client."""
    without = ("HF_HUB_OFFLINE", "HF_TOKEN")
    return {key: value for key, value in os.environ.items() if key not in without} | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }


@contextmanager
def serving_jobs(url: str, folder: Path) -> Iterator[Client]:
    """Start a client whose jobs talk to a stand-in."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub_client"],
        env=environment(url, folder / "home"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Client(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


# --- jobs -------------------------------------------------------------------------------------------------------------

INPUTS = ["a red circle", "what is this?"]


def encode(loader: str, name: str, **kwargs: Any) -> list[list[float]]:
    """Load a model from the Hub and embed."""
    if loader == "stock":
        from sentence_transformers import SentenceTransformer as Model
    else:
        from lco_embedding import LCOEmbedding as Model  # type: ignore[assignment]
    model = Model(name, device="cpu", **kwargs)
    assert loader != "stock" or not any(module.startswith("lco_embedding") for module in sys.modules)
    return model.encode(INPUTS).tolist()  # type: ignore[no-any-return]


def base_of_saved_adapter(name: str, folder: str) -> Any:
    """Load an adapter from the Hub, save it again, and tell what base it names."""
    from lco_embedding import LCOEmbedding

    LCOEmbedding(name, device="cpu").save_pretrained(folder)
    config = json.loads(Path(folder, "adapter_config.json").read_text())
    return [config["base_model_name_or_path"], config["revision"]]


def push(folder: str, repo: str, **kwargs: Any) -> str:
    """Load a model and push it."""
    from lco_embedding import LCOEmbedding

    return LCOEmbedding(folder, device="cpu").push_to_hub(repo, **kwargs)


def upload(folder: str, **kwargs: Any) -> str:
    """Send a folder."""
    from lco_embedding.hub.publication import Destination
    from lco_embedding.hub.publication import upload as send

    return send(folder, Destination(**kwargs))


def card_on_the_hub(repo: str) -> str | None:
    """Read the card of a repository."""
    from lco_embedding.hub.publication import Destination, published_card

    return published_card(Destination(repo))


def command(*argv: str) -> int:
    """Run the command line."""
    from lco_embedding.cli import main as run

    return run(list(argv))


def _work(asked: dict[str, Any]) -> None:
    with Path(asked["place"] + ".txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    answer: dict[str, Any] = {"value": None, "error": None}
    if asked["token"] is not None:
        os.environ["HF_TOKEN"] = asked["token"]
    try:
        answer["value"] = globals()[asked["job"]](*asked["args"], **asked["kwargs"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
        traceback.print_exc()
        answer["error"] = f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    Path(asked["place"] + ".json").write_text(json.dumps(answer))


def main() -> None:
    """Fork a process for every line of the standard input."""
    import peft  # noqa: F401
    import sentence_transformers  # noqa: F401
    from transformers import Qwen2_5OmniThinkerModel  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _work(json.loads(line))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
