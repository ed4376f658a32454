"""Stage 2: contrastive training, which brings out the alignment that generative pretraining has made.

    lco-embedding train text_only --model Qwen/Qwen2.5-Omni-3B --data nli.jsonl --output_dir lco-3b

Sentence Transformers does the training. This adds the recipes: what is loaded, frozen and adapted, any-to-any rows
that are checked before the first step, and the checkpoint, whole or as an adapter.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, set_seed
from transformers import logging as transformers_logging

from lco_embedding.checkpoints.builtin import checkpoint_of
from lco_embedding.checkpoints.record import HUB_ID
from lco_embedding.data.datasets import check, open_evaluation, open_mixture
from lco_embedding.data.json_lines import names_of
from lco_embedding.model import LCOEmbedding
from lco_embedding.modules.adapters import merge_lora
from lco_embedding.modules.processing_settings import ProcessingKwargs
from lco_embedding.training.arguments import TuningArguments, check_best_metric, parse
from lco_embedding.training.checkpoints import Run, begin, replacing_model, telling
from lco_embedding.training.evaluator import FIGURES, retrieval_evaluator
from lco_embedding.training.interruption import StopOnSignal
from lco_embedding.training.lora import (
    Towers,
    check_start,
    count_parameters,
    hold_in_float32,
    lora_config,
    merge_adapter,
    set_trainable,
)
from lco_embedding.training.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
from lco_embedding.training.pushing import push, without_push
from lco_embedding.training.record import write_record
from lco_embedding.training.trainer import ContrastiveTrainer, SideCollator

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset
    from sentence_transformers.base.evaluation import BaseEvaluator

logger = transformers_logging.get_logger(__name__)


@dataclass
class ContrastiveArguments(TuningArguments, SentenceTransformerTrainingArguments):  # type: ignore[misc]
    """Train a backbone or an LCO model to embed, on pairs or triplets of any modalities."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": 'what to train on: JSON lines of {"anchor", "positive", "negative"}, parquet, a folder of '
            "save_to_disk, or a data set of the Hub (name, name:split or name:configuration:split)"
        },
    )
    towers: Literal["absent", "frozen", "full"] = field(  # type: ignore[assignment]
        default="frozen",
        metadata={"help": "encoders and projectors: not even loaded (for text alone), held frozen, or trained"},
    )
    projection: int | None = field(
        default=None, metadata={"help": "add a linear layer to so many dimensions, which is trained"}
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "hold the frozen weights in 4-bit NF4 (QLoRA; needs bitsandbytes)"}
    )
    temperature: float = field(default=0.03, metadata={"help": "temperature of the loss"})
    mini_batch_size: int | None = field(
        default=None, metadata={"help": "rows that are embedded at once, for batches beyond the memory (cached loss)"}
    )
    false_negative_margin: float | None = field(
        default=None,
        metadata={"help": "leave out negatives that are nearer to the anchor than its positive less this cosine"},
    )
    max_length: int | None = field(default=650, metadata={"help": "tokens of text that are kept of an input"})
    eval_retrieval: bool = field(
        default=False,
        metadata={"help": "evaluate by search too: the positives and negatives of eval_data by its anchors"},
    )
    streaming: bool = field(default=False, metadata={"help": "read the data as it is needed; with max_steps"})
    check_data: bool = field(default=True, metadata={"help": "check every row of the data before the first step"})
    keep: Literal["merged", "adapter"] = field(
        default="merged", metadata={"help": "write the whole model, LoRA merged into it, or the adapter alone"}
    )
    _VALID_DICT_FIELDS = [  # noqa: RUF012
        *SentenceTransformerTrainingArguments._VALID_DICT_FIELDS,
        "processing_kwargs",
    ]

    def __post_init__(self) -> None:
        """Check what contradicts itself."""
        super().__post_init__()
        if self.towers == "absent" and self.decoder != "lora":
            raise ValueError(
                f"towers=absent leaves only an adapter to be saved; it needs decoder=lora, not {self.decoder}"
            )
        if self.load_in_4bit and (self.decoder == "full" or self.towers == "full"):
            raise ValueError("weights in 4 bits can't be trained; load_in_4bit needs decoder=lora and frozen towers")
        is_on_hub = HUB_ID.fullmatch(self.model) and not Path(self.model).exists()
        if self.push_to_hub and self.decoder == "lora" and self.keep == "adapter" and not is_on_hub:
            raise ValueError(
                f"push_to_hub of an adapter needs a base on the Hub, which {self.model} is not; pass keep=merged"
            )
        if self.eval_retrieval and not self.eval_data:
            raise ValueError("eval_retrieval needs eval_data to search in")
        if self.decoder == "frozen" and self.towers != "full" and self.projection is None:
            raise ValueError("nothing is trained: pass decoder, towers or projection")


def train(
    arguments: ContrastiveArguments,
    train_dataset: Dataset | DatasetDict | IterableDataset | None = None,
    eval_dataset: Dataset | DatasetDict | IterableDataset | None = None,
    evaluator: BaseEvaluator | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Run stage 2.

    Args:
        arguments: Settings; `arguments.data` names what to train on unless `train_dataset` is given.
        train_dataset: Columns anchor, positive and negatives (by their order) of anything that `encode` takes.
        eval_dataset: The same, to measure the loss on.
        evaluator: Of Sentence Transformers, run whenever evaluation is due.
        callbacks: For the trainer.

    Returns:
        The folder of the checkpoint, `arguments.output_dir`; `LCOEmbedding` loads it.

    Raises:
        ValueError: There is nothing to train on, or no checkpoint to go on from.
        RowError: Some rows of the data can't be trained on; all are named.
        VerificationError: The result is not fit to be pushed; nothing was sent.
        Interrupted: After Ctrl-C or SIGTERM; a checkpoint to go on from is saved.
    """
    set_seed(arguments.seed)
    if train_dataset is None and not arguments.data:
        raise ValueError("there is nothing to train on; pass --data")
    if eval_dataset is None and evaluator is None and arguments.eval_data:
        check_best_metric(arguments, figures_of(arguments.eval_data, arguments.eval_retrieval))
    arguments, to = without_push(arguments)
    folder = Path(arguments.output_dir)
    run, checkpoint = begin(arguments, train_dataset)
    if not run.finished:
        _run(arguments, run, checkpoint, train_dataset, eval_dataset, evaluator, callbacks)
    if to is not None and arguments.process_index == 0:
        push(folder, to)
    return folder


def _run(
    arguments: ContrastiveArguments,
    run: Run,
    checkpoint: Path | None,
    train_dataset: Dataset | DatasetDict | IterableDataset | None,
    eval_dataset: Dataset | DatasetDict | IterableDataset | None,
    evaluator: BaseEvaluator | None,
    callbacks: Sequence[Any],
) -> None:
    started = time.time()
    folder = Path(arguments.output_dir)
    model = load(arguments)
    parameters = count_parameters(model)
    unloaded = model.omni.unloaded_parameters
    logger.warning(f"{parameters}" + (f", {unloaded:,} of the towers are not loaded" if unloaded else ""))
    paths = [*(arguments.data if train_dataset is None else []), *(arguments.eval_data or [])]
    with arguments.main_process_first(desc="reading the data"):
        # The others of a node find what the first has cached.
        if arguments.check_data and not arguments.streaming and arguments.local_process_index == 0:
            check(paths, model.omni)
        if train_dataset is None:
            train_dataset = open_mixture(arguments.data, arguments.weights, arguments.seed, arguments.streaming)
        if eval_dataset is None and arguments.eval_data:
            eval_dataset = open_evaluation(arguments.eval_data)
    if arguments.streaming:
        # Else accelerate cuts every feature to as many entries as a batch has rows, patches of images too.
        arguments.accelerator_config.dispatch_batches = False
    if evaluator is None and arguments.eval_retrieval:
        evaluator = retrieval_evaluator(arguments.eval_data or [], arguments.per_device_eval_batch_size)
    stop = StopOnSignal()
    trainer = ContrastiveTrainer(
        model=model,
        args=arguments,
        data_collator=SideCollator(
            model.preprocess,
            router_mapping=arguments.router_mapping,
            prompts=arguments.prompts,
            max_length=arguments.max_length,
            paths=paths,
        ),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        loss=loss_of(model, arguments),
        evaluator=evaluator,
        callbacks=[stop, *callbacks],
    )
    trainer.run = run
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # First of all; evaluation may fail, and merging take long.
        kept = folder if stop.signal else save(trainer, arguments, folder)
    with telling(kept):
        figures = trainer.evaluate() if eval_dataset is not None or evaluator is not None else {}
        if kept != folder and trainer.is_world_process_zero():
            trainer.model.to("meta" if not arguments.load_in_4bit else trainer.model.device)
            gc.collect()
            merge_adapter(kept, folder, dtype=arguments.dtype)
        if trainer.is_world_process_zero():
            write_record(folder, "contrastive training", arguments, trainer, parameters, figures, time.time() - started)
    trainer.finish()
    trainer.accelerator.wait_for_everyone()


def figures_of(paths: Sequence[str], retrieval: bool) -> list[str]:
    """Return the names of the figures of an evaluation on some files, without "eval_"."""
    names = [f"{name}_" for name in names_of(paths)] if len(paths) > 1 else [""]
    searched = FIGURES if retrieval else ()
    return [*(f"{name}loss" for name in names), *dict.fromkeys(f"{name}{f}" for name in ("", *names) for f in searched)]


def load(arguments: ContrastiveArguments) -> LCOEmbedding:
    """Load the model to train, with what is frozen frozen and what is added added.

    An adapter is merged into its base first. What is trained is in float32, unless `arguments.dtype` says otherwise.

    Raises:
        ValueError: The model is an adapter, and LoRA is to be trained on it.
    """
    source = checkpoint_of(arguments.model, "base")
    check_start(source, arguments.revision, arguments.decoder)
    model_kwargs: dict[str, Any] = {"dtype": arguments.dtype or "auto"}
    if arguments.towers == "absent":
        model_kwargs["load_towers"] = False
    if arguments.load_in_4bit:
        model_kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = LCOEmbedding(
        source,
        model_kwargs=model_kwargs,
        revision=arguments.revision,
        processing_kwargs=_processing_kwargs(arguments),
        device=str(arguments.device),
    )
    merge_lora(model.omni.model)
    backbone = model.omni.backbone
    towers: Towers = "full" if arguments.towers == "full" else "frozen"
    if arguments.decoder == "lora":
        model.omni.model.requires_grad_(False)
        config = lora_config(backbone, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, towers)
        config.revision = arguments.revision
        model.add_adapter(config)
    else:
        set_trainable(model.omni.model, backbone, arguments.decoder, towers)
    if arguments.projection is not None:
        add_projection(model, arguments.projection)
    hold_in_float32(model, arguments.dtype)
    return model


def _processing_kwargs(arguments: ContrastiveArguments) -> ProcessingKwargs:
    given = arguments.processing_kwargs if isinstance(arguments.processing_kwargs, dict) else {}
    text = {} if arguments.max_length is None else {"max_length": arguments.max_length}
    return {**given, "text": {**text, **given.get("text", {})}}


def add_projection(model: LCOEmbedding, dimension: int) -> None:
    """Put a linear layer to `dimension` dimensions after the pooling."""
    modules = [module for module in model if not isinstance(module, Normalize)]
    dense = Dense(model.get_embedding_dimension(), dimension, bias=False, activation_function=nn.Identity())
    dense.to(model.device)
    dense.linear.register_forward_pre_hook(_cast_input)
    model._modules.clear()
    for number, module in enumerate([*modules, dense, Normalize()]):
        model.add_module(str(number), module)


def _cast_input(linear: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(linear.weight.dtype),)


def loss_of(model: LCOEmbedding, arguments: ContrastiveArguments) -> nn.Module:
    """Return the loss of the recipe: InfoNCE over the candidates of all processes."""
    options: dict[str, Any] = {
        "scale": 1 / arguments.temperature,
        "gather_across_devices": arguments.world_size > 1,
        "false_negative_margin": arguments.false_negative_margin,
    }
    if arguments.mini_batch_size is not None:
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=arguments.mini_batch_size, **options)
    return MultipleNegativesRankingLoss(model, **options)


def save(trainer: ContrastiveTrainer, arguments: ContrastiveArguments, folder: Path) -> Path:
    """Write what was trained: the whole model, or the adapter alone.

    Every process calls this, as weights that are sharded are gathered from all; process zero writes.

    Returns:
        Where it is: the folder, or the checkpoint of an adapter that is still to be merged.
    """
    if arguments.decoder == "lora" and arguments.keep == "merged":
        return trainer.keep()
    if arguments.decoder != "lora":
        trainer.saved_dtype = trainer.model.omni.checkpoint_dtype
    if trainer.args.should_save:
        with replacing_model(folder) as partial:
            trainer.save_model(str(partial))
    else:
        trainer.save_model(str(folder))
    return folder


def main(argv: Sequence[str]) -> int:
    """Run `lco-embedding train`."""
    arguments = parse(ContrastiveArguments, argv, "lco-embedding train")
    folder = train(arguments)
    sys.stdout.write(f"written to {folder}\n")
    return 0
