"""Checkpoints of a run: saved whole, known by their run, and gone on from.

A checkpoint is written under a hidden name and renamed when it is complete. `.run.json` in it and in the output folder
says of which run it is: each training that begins anew in a folder is another one, and so is one on other data.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers import logging as transformers_logging
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from lco_embedding.atomic_writes import (
    PARTIAL,
    atomic_folder,
    discarding,
    remove_folder,
    remove_leftovers,
    replace_folder,
    sync_files,
    write_text,
)
from lco_embedding.checkpoints.record import NAME as RECORD
from lco_embedding.hub.files import published_files
from lco_embedding.hub.publication import REPLACED
from lco_embedding.model_cards.card import README

logger = transformers_logging.get_logger(__name__)

RUN = ".run.json"
"""Name of the file that says of which run a folder is; hidden, so that it is not published."""

LAST = ("last", "true")
"""Values of `resume_from_checkpoint` for the newest checkpoint of this run; the second is that of transformers."""

SOURCE = ("revision", "weights", "seed")
"""Arguments that make another run, beside the model and the data."""

TRAINED = ("decoder", "towers", "lora_r", "lora_alpha", "projection", "load_in_4bit", "dtype", "optim")
"""Arguments that a run can't change when it goes on, as its checkpoint would not fit."""

UNRECORDED = (
    *("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "local_rank", "recipe"),
    # The model and the data are in `Run.source` by their content.
    *("model", "data", "report_to", "disable_tqdm", "log_level", "log_level_replica"),
)
"""Arguments that say where a run is and how it reports, which may change."""

CONTENT = (".safetensors", ".jsonl", ".parquet", ".arrow")
"""Endings of the files by which a model or data set is known."""

EDGE = 2**16
"""Bytes at the beginning and the end of a file by which it is known, with its size."""


@dataclass(frozen=True)
class Run:
    """A training run.

    Args:
        id: Of this run alone.
        source: What it is made of: the model and data by their content, and the seed.
        settings: Its other arguments.
        finished: Whether the result is complete.
        saved: When this was written, in seconds since the epoch.
        files: Of a checkpoint, the sizes of its files in bytes by their relative paths.
    """

    id: str
    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    finished: bool = False
    saved: float = 0.0
    files: Mapping[str, int] | None = None

    @classmethod
    def of(cls, arguments: TrainingArguments, train_dataset: Any = None) -> Run:
        """Return a new run.

        Args:
            arguments: Of the command.
            train_dataset: What is trained on, if it is not named by the arguments; known by its length.
        """
        values = {entry.name: getattr(arguments, entry.name) for entry in fields(arguments) if entry.init}
        paths = values.get("data") or [] if train_dataset is None else []
        source = {name: values.get(name) for name in SOURCE}
        source["model"] = _signature(values.get("model", ""))
        source["data"] = [_signature(path) for path in paths]
        source["rows"] = len(train_dataset) if hasattr(train_dataset, "__len__") else None
        settings = {
            name: value
            for name, value in values.items()
            if isinstance(value, str | int | float | list | dict | None)
            and name not in (*SOURCE, *UNRECORDED)
            and not name.startswith(("hub_", "push_to_hub"))
        }
        plain = json.loads(json.dumps({"source": source, "settings": settings}, default=str))
        return cls(uuid.uuid4().hex, **plain)

    @classmethod
    def read(cls, folder: Path) -> Run | None:
        """Return the run that a folder is of; None where that is not known."""
        try:
            return cls(**json.loads((folder / RUN).read_text(encoding="utf8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path, **changes: Any) -> None:
        """Write the file that says of which run a folder is."""
        content = asdict(replace(self, saved=time.time(), **changes))
        write_text(folder / RUN, json.dumps(content, indent=2) + "\n")

    def check(self, checkpoint: Path, earlier: Run) -> None:
        """Check that this run can go on from a checkpoint, and tell what it changes.

        Raises:
            ValueError: The checkpoint holds something else than this run trains.
        """
        changed = {
            name: (earlier.settings.get(name), value)
            for name, value in self.settings.items()
            if earlier.settings.get(name) != value
        }
        told = {name: f"--{name} {old} (now {new})" for name, (old, new) in changed.items()}
        if fixed := [told[name] for name in TRAINED if name in told]:
            raise ValueError(
                f"{checkpoint} was trained with {', '.join(fixed)}; resume it so, or train anew in another folder"
            )
        if told:
            logger.warning(f"{checkpoint} was trained with {', '.join(told.values())}.")


def _signature(name: str) -> str:
    """Return a hash of a file or folder by the sizes and edges of its files, wherever it lies; the name of others."""
    path = Path(name)
    if not path.exists():
        return name
    files = [path] if path.is_file() else [path / file for file in published_files(path) if file.endswith(CONTENT)]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(EDGE))
            opened.seek(max(0, size - EDGE))
            digest.update(opened.read(EDGE))
    return digest.hexdigest()


def begin(arguments: TrainingArguments, train_dataset: Any = None) -> tuple[Run, Path | None]:
    """Find out what `resume_from_checkpoint` asks for.

    Args:
        arguments: Of the command.
        train_dataset: What is trained on, if it is not named by the arguments.

    Returns:
        The run, which is `finished` if there is nothing left to do; and the checkpoint that it goes on from, None if it
        begins anew.

    Raises:
        ValueError: There is no such checkpoint, or it was trained otherwise.
    """
    run, output = Run.of(arguments, train_dataset), Path(arguments.output_dir)
    resume = str(arguments.resume_from_checkpoint or False)
    if resume.lower() in ("false", "none"):
        return run, None
    current = Run.read(output)
    if resume.lower() not in LAST:
        checkpoint = Path(resume)
        if not (checkpoint / TRAINER_STATE_NAME).is_file():
            raise ValueError(
                f"--resume_from_checkpoint {resume} is no checkpoint of a training: {TRAINER_STATE_NAME} is missing. "
                "Name another, or 'last' for the newest of this run"
            )
        if (earlier := Run.read(checkpoint)) is not None:
            run.check(checkpoint, earlier)
            if current is not None and current.id == earlier.id:
                run = replace(run, id=earlier.id)
        return run, checkpoint
    is_same = current is not None and (current.source, current.settings) == (run.source, run.settings)
    if current is not None and is_same and current.finished and (output / RECORD).is_file():
        logger.warning(f"{output} holds the finished run of this command; there is no further step to train.")
        return current, None
    return _newest(arguments, run, current)


def _newest(arguments: TrainingArguments, run: Run, current: Run | None) -> tuple[Run, Path | None]:
    """Return the newest whole checkpoint of a run, with the id of its run, and tell which are passed over."""
    found: list[tuple[float, str, Run]] = []
    for checkpoint in checkpoints_in(arguments.output_dir):
        earlier = Run.read(checkpoint)
        reason = None
        if earlier is None or earlier.files is None:
            reason = f"without a {RUN}, so that it is not known to be whole"
        elif wrong := [name for name, size in earlier.files.items() if _size(checkpoint / name) != size]:
            reason = f"not whole ({wrong[0]} is missing or cut off)"
        elif current is not None and earlier.id != current.id:
            reason = "of another run"
        elif earlier.source != run.source:
            names = [name for name, value in run.source.items() if earlier.source.get(name) != value]
            reason = f"of a run with other {', '.join(names)}"
        else:
            found.append((earlier.saved, checkpoint.name, earlier))
        if reason is not None and arguments.process_index == 0:
            logger.warning(f"{checkpoint} is passed over: it is {reason}.")
    found.sort(key=lambda each: each[0])
    if arguments.world_size > 1:
        # Where each node has a disk of its own, one that every node holds.
        everywhere = gather_object([[name for _, name, _ in found]])
        found = [each for each in found if all(each[1] in names for names in everywhere)]
    if not found:
        return run, None
    _, name, earlier = found[-1]
    checkpoint = Path(arguments.output_dir, name)
    run.check(checkpoint, earlier)
    return replace(run, id=earlier.id), checkpoint


def checkpoints_in(folder: str | Path) -> list[Path]:
    """List the checkpoints in an output folder, by their steps."""
    found = [path for path in Path(folder).glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


class CheckpointTrainer(Trainer):  # type: ignore[misc]
    """A `Trainer` whose checkpoints appear when they are whole, and which trains no step beyond the last.

    Of transformers it overrides `_save_checkpoint`, for which there is no public hook: callbacks are called when older
    checkpoints have been removed already.
    """

    run: Run | None = None
    _resumed: tuple[int, Path] | None = None
    _kept: tuple[int, Path] | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; as `Trainer.train`."""
        if isinstance(resume_from_checkpoint, str):
            state = json.loads(Path(resume_from_checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf8"))
            self._resumed = self._kept = state["global_step"], Path(resume_from_checkpoint)
        self.run = self.run or Run.of(self.args, self.train_dataset)
        if self.args.should_save:
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.args.output_dir)
            self.run.write(Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def set_initial_training_values(self, *args: Any) -> Any:
        """Return the lengths of the run; without a further epoch where it is resumed after its last step."""
        epochs, updates, *others, steps = super().set_initial_training_values(*args)
        if self._resumed is not None and self._resumed[0] >= steps:
            # transformers 5.23 looks at the last step only after a step.
            epochs = self._resumed[0] // updates
        return epochs, updates, *others, steps

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, without the pickle of the arguments, which nothing reads."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output, step = Path(self.args.output_dir), self.state.global_step
        room, target = output / f"{PARTIAL}checkpoint", output / f"checkpoint-{step}"
        if self.args.should_save:
            shutil.rmtree(room, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with discarding(room, target):
            self._write_checkpoint(model, trial, room, target)
        self._kept = step, target
        if self.args.should_save:
            self._remove_older(target)

    def _write_checkpoint(self, model: nn.Module, trial: Any, room: Path, target: Path) -> None:
        output, step, limit = self.args.output_dir, self.state.global_step, self.args.save_total_limit
        partial = room / target.name
        try:
            # Older ones are removed when this one is there.
            self.args.output_dir, self.args.save_total_limit = str(room), None
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir, self.args.save_total_limit = output, limit
        if self.state.best_global_step == step and self.state.best_model_checkpoint == str(partial):
            self.state.best_model_checkpoint = str(target)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
            files = [path for path in partial.rglob("*") if path.is_file()]
            sizes = {path.relative_to(partial).as_posix(): path.stat().st_size for path in files}
            self.run = self.run or Run.of(self.args, self.train_dataset)
            self.run.write(partial, files=sizes)
            replace_folder(partial, target)
        self.accelerator.wait_for_everyone()
        if partial.is_dir():
            # On a node with a disk of its own, the random state of this process.
            replace_folder(partial, target)

    def _remove_older(self, newest: Path) -> None:
        """Keep `save_total_limit` checkpoints of this run, the newest and the best among them, as transformers does."""
        limit = self.args.save_total_limit or 0
        if limit < 1:
            return
        found = [(path, Run.read(path)) for path in checkpoints_in(self.args.output_dir)]
        own = sorted((run.saved, path) for path, run in found if run is not None and self.run and run.id == self.run.id)
        best = self.state.best_model_checkpoint
        kept = {newest, *([Path(best)] if best else [])}
        others = [path for _, path in own if path not in kept]
        for path in others[: max(0, len(own) - max(limit, len(kept)))]:
            remove_folder(path)

    def keep(self) -> Path:
        """Return a checkpoint with the weights as they are after training, saved now unless there is one.

        Every process calls this.
        """
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            return Path(self.state.best_model_checkpoint)
        step = self.state.global_step
        if self._kept is not None and self._kept[0] == step:
            return self._kept[1]
        only, self.args.save_only_model = self.args.save_only_model, True
        try:
            self._save_checkpoint(self.model, None)
        finally:
            self.args.save_only_model = only
        return Path(self.args.output_dir, f"checkpoint-{step}")

    def finish(self) -> None:
        """Note that the result is complete, and remove what was saved only for its sake."""
        if self.run is not None and self.args.should_save:
            self.run.write(Path(self.args.output_dir), finished=True)
        if self._kept is None or not self.args.should_save:
            return
        # A run that was killed after its last checkpoint may have left an older one.
        self._remove_older(self._kept[1])
        last = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.args.save_strategy == "no" and self._kept[1] == last:
            remove_folder(last)


@contextmanager
def replacing_model(folder: str | Path) -> Iterator[Path]:
    """Yield a folder to save a model to, which then replaces the model in a folder: weights of an older one go.

    The card of the folder is there to be written anew, as a person may have written in it.
    """
    target = Path(folder)
    with atomic_folder(target) as partial:
        if (target / README).is_file():
            shutil.copyfile(target / README, partial / README)
        yield partial
        sync_files(partial)
        for pattern in (*REPLACED, TRAINING_ARGS_NAME):
            for path in target.glob(pattern):
                path.unlink()


@contextmanager
def telling(kept: Path) -> Iterator[None]:
    """Say where the trained weights are when what follows on training fails."""
    try:
        yield
    except BaseException:
        logger.warning(f"Training is done, and what it trained is in {kept}.")
        raise
