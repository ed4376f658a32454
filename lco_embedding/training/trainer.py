"""The trainer of Sentence Transformers, for any-to-any rows, adapters and several processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor, nn
from transformers import Trainer
from transformers import logging as transformers_logging

from lco_embedding.data.datasets import find_row
from lco_embedding.data.json_lines import RowError
from lco_embedding.data.sides import input_of
from lco_embedding.model import LCOEmbedding
from lco_embedding.modules.adapters import put_weights
from lco_embedding.modules.inputs import InputError
from lco_embedding.training.checkpoints import CheckpointTrainer

logger = transformers_logging.get_logger(__name__)

ADAPTER_CONFIG = "adapter_config.json"


@dataclass
class SideCollator(SentenceTransformerDataCollator):  # type: ignore[misc]
    """Reads the sides of any-to-any rows as inputs; all else as Sentence Transformers does.

    Args:
        paths: The data sets that the rows are from, in which one that can't be read is looked up to name it.
    """

    paths: Sequence[str] = field(default_factory=tuple)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows.

        Raises:
            InputError: Some sides can't be read; it names them by their place in the batch.
            RowError: The same, where the file and line of the row are known.
        """
        rows = [{key: input_of(side) for key, side in row.items()} for row in features]
        try:
            batch: dict[str, Any] = super().__call__(rows)
        except InputError as error:
            index = error.problems[0].index
            where = find_row(self.paths, features[index]) if index < len(features) else None
            if where is None:
                raise
            problem = error.problems[0]
            raise RowError(f"{where}: {problem.source}: {problem.reason}. Mend or drop it.") from error
        return batch


class ContrastiveTrainer(CheckpointTrainer, SentenceTransformerTrainer):  # type: ignore[misc]
    """A `SentenceTransformerTrainer` for any-to-any rows, and for checkpoints that hold an adapter alone.

    Attributes:
        saved_dtype: Dtype in which the weights that were trained are written; as they are, for checkpoints to go on
            from, unless set.
    """

    data_collator_class = SideCollator
    saved_dtype: torch.dtype | None = None
    is_in_train: bool

    def _load_from_checkpoint(self, checkpoint_path: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            # Sentence Transformers loads whole tensors, which don't fit the shards.
            Trainer._load_from_checkpoint(self, checkpoint_path, model)
            return
        if not Path(checkpoint_path, ADAPTER_CONFIG).is_file():
            # What was trained is in float32 there, whatever the configuration says.
            loaded = LCOEmbedding(checkpoint_path, device="cpu", model_kwargs={"dtype": torch.float32})
            self.model.load_state_dict(loaded.state_dict())
            return
        put_weights(self.model.omni.model, load_file(Path(checkpoint_path, SAFETENSORS_WEIGHTS_NAME)), checkpoint_path)
        for entry in json.loads(Path(checkpoint_path, "modules.json").read_text(encoding="utf8")):
            module = self.model[entry["idx"]]
            if entry["idx"] and any(True for _ in module.parameters()):
                loaded = type(module).load(checkpoint_path, subfolder=entry["path"])
                module.load_state_dict(loaded.state_dict())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; the evaluator runs once, however many evaluation data sets there are."""
        # Sentence Transformers does so while training; afterwards it would run for each, under odd names.
        before, self.is_in_train = self.is_in_train, True
        try:
            figures: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            self.is_in_train = before
        return figures

    def _load_best_model(self) -> None:
        # Sentence Transformers logs an error and goes on with the last weights, which nobody would notice.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            Trainer._load_best_model(self)
            return
        logger.warning(f"The best checkpoint is {self.state.best_model_checkpoint} ({self.state.best_metric:.4f}).")
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # transformers 5.23 calls this in every process, and Sentence Transformers 6.2 then writes in every one.
        if self.args.should_save:
            tensors = state_dict or {}
            if self.saved_dtype is not None:
                trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
                tensors = {name: tensor.to("cpu", self.saved_dtype) for name, tensor in (tensors or trained).items()}
            with holding(self.model, tensors):
                super()._save(output_dir, state_dict)


@contextmanager
def holding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other tensors in the place of a model's parameters: of shards, what they are shards of.

    Args:
        model: The model.
        tensors: By the names of the parameters; others stay.
    """
    shards = {name: parameter for name, parameter in model.named_parameters() if name in tensors}

    def put(name: str, parameter: nn.Parameter) -> None:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._parameters[child] = parameter

    try:
        for name in shards:
            put(name, nn.Parameter(tensors[name], requires_grad=False))
        yield
    finally:
        for name, parameter in shards.items():
            put(name, parameter)
