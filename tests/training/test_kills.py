"""Runs that are killed, stopped or out of space: what was good stays, and a repeat ends as if nothing had been."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lco_embedding import LCOEmbedding
from lco_embedding.training.checkpoints import Run, checkpoints_in
from tests.forks import Done, Forks, forking
from tests.training.test_contrastive import triplets

COMMON = {"max_steps": 4, "per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": "true", "seed": 3}
TRAIN = {**COMMON, "lora_r": 4, "lora_dropout": 0.1, "towers": "absent", "learning_rate": 1e-2, "save_total_limit": 1}
PRETRAIN = {**COMMON, "decoder": "full", "learning_rate": 1e-3}


class Runner:
    """Runs one training command, with changes, in one output folder or another."""

    def __init__(self, forks: Forks, command: str, options: dict[str, object], home: Path) -> None:
        self.forks, self.command, self.options, self.home = forks, command, options, home
        self.whole = home / "whole" / "out"
        self.done = self(self.whole)
        assert self.done.status == 0, self.done.output

    def __call__(
        self, output: Path, at: int | str | None = None, *, file_bytes: int | None = None, **changed: object
    ) -> Done:
        send = changed.pop("send", signal.SIGKILL)
        options = {"save_steps": 2, **self.options, "resume_from_checkpoint": "last", **changed}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        arguments = (self.command, "--use_cpu", "--output_dir", output, *words)
        return self.forks(*arguments, watched=output, at=at, send=send, file_bytes=file_bytes)  # type: ignore[arg-type]

    def completes(self, output: Path, **changed: object) -> Done:
        """Repeat the command, and compare what it leaves to the run that nothing happened to."""
        done = self(output, **changed)
        assert done.status == 0, done.output
        expected, found = (load_file(folder / "model.safetensors") for folder in (self.whole, output))
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
        assert not list(output.rglob(".partial.*"))
        return done


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forking(tmp_path_factory.mktemp("forks")) as running:
        yield running


@pytest.fixture(scope="module")
def train(forks: Forks, thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp("train")
    data = home / "triplets.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in triplets(12)))
    return Runner(forks, "train", {**TRAIN, "model": thinker, "data": data}, home)


@pytest.fixture(scope="module")
def pretrain(forks: Forks, thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp("pretrain")
    data = home / "chats.jsonl"
    turns = [({"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} {n}"}) for n in range(12)]
    data.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return Runner(forks, "pretrain", {**PRETRAIN, "model": thinker, "data": data}, home)


def steps(output: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, each of which must be whole."""
    for checkpoint in checkpoints_in(output):
        run = Run.read(checkpoint)
        assert run is not None
        assert all((checkpoint / name).stat().st_size == size for name, size in (run.files or {}).items())
    return [int(path.name.rpartition("-")[2]) for path in checkpoints_in(output)]


MOMENTS = {
    "the weights are written": ("open .partial.checkpoint/checkpoint-4/modules.json", [2]),
    "it is to appear": ("os.rename .partial.checkpoint/checkpoint-4 ", [2]),
    "half of the older one is gone": ("os.rmdir .partial.older.checkpoint-2", [4]),
    "the merged model is to appear": ("os.rename .partial.content/out/model.safetensors", [4]),
    "the record is written": ("open .partial.training_record.json", [4]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_bit_for_bit(moment: str, train: Runner, tmp_path: Path) -> None:
    at, left = MOMENTS[moment]
    output = tmp_path / "out"
    assert train(output, at).status == -signal.SIGKILL
    assert steps(output) == left
    again = train.completes(output)
    written = {change for change in again.changes if "checkpoint-4/" in change}
    assert bool(written) == (left[-1] == 2), "a step was trained again, or none"
    assert steps(output) == [4]


def test_what_is_trained_is_kept_until_the_merged_model_is_whole(train: Runner, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert train(output, "open .partial.content/out/modules.json", save_strategy="no").status == -signal.SIGKILL
    assert steps(output) == [4]
    again = train.completes(output, save_strategy="no")
    assert not [change for change in again.changes if "checkpoint-4/optimizer" in change]
    assert not checkpoints_in(output), "it is of no use any more"


def test_what_fails_after_the_last_step_costs_nothing_that_was_trained(train: Runner, tmp_path: Path) -> None:
    output, held_out = tmp_path / "out", tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"anchor": "a", "positive": {"image_path": "nowhere.png"}}) + "\n")
    options = {"save_strategy": "no", "eval_data": held_out, "check_data": "false", "towers": "frozen"}
    failed = train(output, **options)
    assert failed.status == 2
    assert "what it trained is in" in failed.output
    assert steps(output) == [4]
    held_out.write_text(json.dumps({"anchor": "a", "positive": "b"}) + "\n")
    assert train(output, **options).status == 0
    record = json.loads((output / "training_record.json").read_text())
    assert record["steps"] == 4
    assert record["figures"]["eval_loss"] >= 0


@pytest.mark.parametrize(("command", "name"), [("train", "SIGTERM"), ("pretrain", "SIGINT")])
def test_a_signal_saves_a_checkpoint(command: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    runner: Runner = request.getfixturevalue(command)
    output, number = tmp_path / "out", getattr(signal, name)
    stopped = runner(output, "os.rename .partial.checkpoint/checkpoint-2 ", send=number)
    assert stopped.status == 128 + number
    assert f"stopped by {name} after step 3" in stopped.output
    assert "--resume_from_checkpoint last" in stopped.output.splitlines()[-1]
    assert 3 in steps(output)
    if command == "train":
        LCOEmbedding(output / "checkpoint-3", device="cpu")
    assert not (output / "model.safetensors").exists()
    runner.completes(output)


def test_a_second_ctrl_c_ends_at_once(train: Runner, tmp_path: Path) -> None:
    output = tmp_path / "out"
    # It comes twice, as two changes fit.
    stopped = train(output, "open .partial.checkpoint/checkpoint-4/trainer_state.json", send=signal.SIGINT)
    assert stopped.status == 130
    assert "lco-embedding: interrupted" in stopped.output
    assert steps(output) == [2]
    train.completes(output)


def test_a_full_disk_costs_nothing_that_was_good(train: Runner, tmp_path: Path) -> None:
    output = tmp_path / "out"
    train(output, "open .partial.checkpoint/checkpoint-4/modules.json")
    full = train(output, file_bytes=(output / "checkpoint-2" / "optimizer.pt").stat().st_size - 1000)
    assert full.status == 2, full.output
    assert "Traceback" not in full.output
    assert steps(output) == [2]
    assert not list(output.glob(".partial.*"))
    train.completes(output)


def test_last_is_of_this_run(train: Runner, tmp_path: Path) -> None:
    output = tmp_path / "out"
    train(output, seed=4, learning_rate=1e-3, keep="adapter")
    assert steps(output) == [4]
    killed = train(output, "open .partial.checkpoint/checkpoint-4/modules.json")
    assert "checkpoint-4 is passed over: it is of a run with other seed" in killed.output
    assert steps(output) == [2, 4]
    again = train.completes(output)
    assert "checkpoint-4 is passed over: it is of another run" in again.output
    assert not (output / "adapter_config.json").exists(), "an older result lies in the new one"


def test_what_is_cut_off_or_unknown_is_passed_over(train: Runner, tmp_path: Path) -> None:
    output = tmp_path / "out"
    train(output, "os.rename checkpoint-2 ")
    state = output / "checkpoint-4" / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:-1])
    (output / "checkpoint-9").mkdir()
    again = train.completes(output)
    assert "checkpoint-4 is passed over: it is not whole (optimizer.pt is missing or cut off)" in again.output
    assert "checkpoint-9 is passed over: it is without a .run.json" in again.output


@pytest.mark.parametrize(("command", "resume"), [("train", "last"), ("pretrain", "true")])
def test_a_finished_run_is_left_as_it_is(command: str, resume: str, request: pytest.FixtureRequest) -> None:
    runner: Runner = request.getfixturevalue(command)
    again = runner(runner.whole, resume_from_checkpoint=resume)
    assert (again.status, again.changes) == (0, [])
    assert "there is no further step to train" in again.output


def test_more_steps_are_trained_when_asked_for(train: Runner, tmp_path: Path) -> None:
    output = tmp_path / "out"
    train(output, save_total_limit=3)
    longer = train(output, save_total_limit=3, max_steps=6)
    assert longer.status == 0
    assert "was trained with --max_steps 4 (now 6)" in longer.output
    assert steps(output) == [2, 4, 6]
    assert json.loads((output / "training_record.json").read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"projection": 8}, "was trained with --projection None (now 8)"),
        ({"decoder": "full", "towers": "frozen"}, "was trained with --decoder lora (now full), --towers absent (now"),
        ({"resume_from_checkpoint": "elsewhere"}, "elsewhere is no checkpoint of a training"),
    ],
)
def test_what_does_not_fit_is_one_line(changed: dict[str, object], reason: str, train: Runner) -> None:
    refused = train(train.whole, **changed)
    assert refused.status == 2
    assert reason in refused.output.splitlines()[-1]
    assert not refused.changes
