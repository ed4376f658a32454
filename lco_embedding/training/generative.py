"""Stage 1: (continual) generative pretraining, which sets what contrastive training can bring out afterwards.

    lco-embedding pretrain seadoc_like --model Qwen/Qwen2.5-Omni-3B --data ocr.jsonl captions.jsonl --weights 1 0.5

Rows are chats with media in any place; the loss is on the tokens of the answers alone. The result is a generative
checkpoint, which `LCOEmbedding` and the contrastive stage start from, and which still generates.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers import logging as transformers_logging

from lco_embedding.checkpoints.builtin import checkpoint_of
from lco_embedding.data.json_lines import JsonLines, names_of
from lco_embedding.data.mixture import Mixture, Rows
from lco_embedding.modules import OmniTransformer, chat_template
from lco_embedding.modules.adapters import merge_lora
from lco_embedding.modules.batching import Row, pad
from lco_embedding.modules.inputs import InputError, Item, Problem
from lco_embedding.modules.media_features import splice
from lco_embedding.training.answers import IGNORED, answer_losses, answer_metrics
from lco_embedding.training.arguments import TuningArguments, check_best_metric, parse
from lco_embedding.training.checkpoints import CheckpointTrainer, begin, replacing_model, telling
from lco_embedding.training.interruption import StopOnSignal
from lco_embedding.training.lora import (
    check_start,
    count_parameters,
    hold_in_float32,
    lora_config,
    set_trainable,
)
from lco_embedding.training.record import write_record

logger = transformers_logging.get_logger(__name__)

FIGURES = ("loss", "nll", "accuracy", "exact")
"""What is measured on each of the evaluation data."""


@dataclass
class GenerativeArguments(TuningArguments, TrainingArguments):  # type: ignore[misc]
    """Train a model to answer chats about text, images, audio and video; write a generative checkpoint."""

    data: list[str] = field(
        default_factory=list,
        metadata={"help": 'JSON-lines files of {"messages": [...]}; paths of media are relative to the file'},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of a chat; what is longer loses the end of its answer"}
    )
    balance: Literal["tokens", "answers"] = field(
        default="tokens",
        metadata={"help": "what counts alike in the loss: each token, or each chat whatever the length of its answers"},
    )
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "processing_kwargs"]  # noqa: RUF012

    def __post_init__(self) -> None:
        """Check what is not supported."""
        super().__post_init__()
        if self.push_to_hub:
            raise ValueError(
                "push_to_hub is not supported by pretrain: what is published are embedding models, which "
                "`lco-embedding train` makes of its result; to share that itself, `hf upload` it"
            )


class ChatCollator:
    """Turns chats into a batch with labels.

    Args:
        omni: The model's first module, which reads media.
        max_length: Tokens of a chat, beyond which the end of its answer is cut off.
    """

    def __init__(self, omni: OmniTransformer, max_length: int | None = None) -> None:
        self.omni = omni
        self.max_length = max_length or omni.max_text_tokens
        self.template_kwargs = {
            key: value
            for key, value in omni.processing_kwargs["chat_template"].items()
            if key not in ("add_generation_prompt", "chat_template", "restore_suffix")
        }

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return a batch.

        Args:
            examples: Rows with "messages", whose last is the assistant's, and optionally "alternatives": all right
                answers to the last request, where there are several, as in data sets of visual questions.

        Returns:
            What the model takes; `labels` of shape (rows, tokens), the token ids of answers and -100 elsewhere; and,
            if there are any, `alternatives` of shape (rows, most alternatives), their first tokens, padded with -100.

        Raises:
            InputError: Some chats can't be trained on; it lists them by their place in the batch.
        """
        reader = self.omni.reader()
        items, problems = self.omni.parse([list(example["messages"]) for example in examples], reader)
        rows, labels, others = [], [], []
        for item in items:
            row = self.omni.read(item, reader)
            if isinstance(row, Row):
                answered = self.label(row)
                if isinstance(answered, list):
                    rows.append(row)
                    labels.append(torch.tensor(answered))
                    others.append(self._first_tokens(examples[item.index].get("alternatives") or ()))
                    continue
                row = answered
            problems.append(row)
        if problems:
            raise InputError(sorted(problems, key=lambda problem: problem.index), scope="batch")
        batch = self.omni.collate(rows)
        positions = batch.pop("row_position_ids", None)
        if positions is not None:
            batch["position_ids"] = positions.transpose(0, 1)
        taken = signature(self.omni.model.forward).parameters
        known = {key: value for key, value in batch.items() if key in taken}
        if any(map(len, others)):
            known["alternatives"] = pad(others, IGNORED, "right")
        return {**known, "labels": pad(labels, IGNORED, self.omni.tokenizer.padding_side)}

    def _first_tokens(self, answers: Sequence[str]) -> Tensor:
        ids = self.omni.tokenizer(list(answers), add_special_tokens=False)["input_ids"] if answers else []
        return torch.tensor([answer[0] for answer in ids], dtype=torch.long)

    def label(self, row: Row) -> list[int] | Problem:
        """Tokenize a chat into `row.input_ids`, and return its labels."""
        answers = [number for number, message in enumerate(row.item.messages) if message.role == "assistant"]
        if not answers or answers[-1] + 1 != len(row.item.messages):
            return Problem(
                row.item.index, "chat", "its last message is not the assistant's: there is no answer to learn"
            )
        if any(not "".join(block.value for block in row.item.messages[number].blocks).strip() for number in answers):
            return Problem(row.item.index, "chat", "an answer is empty: there is nothing to learn")
        # Each stretch is tokenized for itself, as it is when the model is asked and then answers.
        stretches: list[str] = []
        written = ""
        for number in answers:
            asked = self._render(row.item, number, ask=True)
            told = self._render(row.item, number + 1, ask=False)
            if not (asked.startswith(written) and told.startswith(asked)):
                return Problem(
                    row.item.index, "chat", "the chat template does not write answers where it asks for them"
                )
            stretches += [asked[len(written) :], told[len(asked) :]]
            written = told
        ids: list[int] = []
        labels: list[int] = []
        media = list(row.media_ids)
        for number, stretch in enumerate(chat_template.encode_stretches(self.omni.tokenizer, stretches)):
            if number % 2:
                stop = self._length_to_stop(stretch)
                labels += stretch[:stop] + [IGNORED] * (len(stretch) - stop)
                ids += stretch
            else:
                count = sum(token in self.omni.placeholders for token in stretch)
                spliced = splice(stretch, media[:count], self.omni.placeholders)
                del media[:count]
                labels += [IGNORED] * len(spliced)
                ids += spliced
        if media or all(label == IGNORED for label in labels[: self.max_length]):
            return Problem(row.item.index, "chat", f"its {len(ids)} tokens leave no answer within {self.max_length}")
        if any(token in self.omni.placeholders for token in ids[self.max_length :]):
            return Problem(row.item.index, "chat", f"its media reach beyond {self.max_length} tokens")
        row.input_ids = ids[: self.max_length]
        return labels[: self.max_length]

    def _render(self, item: Item, count: int, ask: bool) -> str:
        shown = replace(item, messages=item.messages[:count])
        return chat_template.render(self.omni.processor, shown, {**self.template_kwargs, "add_generation_prompt": ask})

    def _length_to_stop(self, answer: list[int]) -> int:
        """Return how much of an answer is learned: up to the token that ends it, without line breaks after that."""
        stop = self.omni.tokenizer.eos_token_id
        return len(answer) - answer[::-1].index(stop) if stop in answer else len(answer)


class GenerativeTrainer(CheckpointTrainer):
    """A `Trainer` whose language head sees only the states before answers, and which measures answers.

    Logits of every token of a chat would take more memory than the model: 650 tokens of a vocabulary of 152,000 are
    400 MB a row in float32.

    Evaluation reports `nll`, the mean negative log-likelihood of a token of an answer in nats, `accuracy`, the share
    of those tokens that are the most likely ones, and `exact`, the share of answers of which all are, which is what
    greedy generation would answer right.
    """

    def __init__(self, model: nn.Module, head: nn.Module, **kwargs: Any) -> None:
        super().__init__(model, compute_loss_func=self._mean_loss, compute_metrics=answer_metrics, **kwargs)
        self.model_accepts_loss_kwargs = False
        self._answered: Tensor | None = None
        self._alternatives: Tensor | None = None
        head.register_forward_pre_hook(self._keep_answers)

    def _keep_answers(self, _: nn.Module, states: tuple[Tensor]) -> Tensor | None:
        # (rows, tokens, dimension) -> (tokens of answers, dimension)
        return None if self._answered is None else states[0][:, :-1][self._answered]

    def _mean_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        losses = answer_losses(outputs["logits"], labels, self._alternatives)
        if self.args.balance == "answers":
            counts = (labels[:, 1:] != IGNORED).sum(1)
            losses = losses * (len(losses) / len(counts) / counts).repeat_interleave(counts)
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the mean loss of the tokens of the answers."""
        self._answered = inputs["labels"][:, 1:] != IGNORED
        self._alternatives = inputs.pop("alternatives", None)
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self._answered = self._alternatives = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.model if model is None else model
        if not isinstance(target, PreTrainedModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # The names in a checkpoint are not always those in the model; transformers 5.23 then goes on from the weights
        # that it began with, and only warns. What was trained is in float32 there.
        loaded = type(target).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        target.load_state_dict(loaded.state_dict())

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss, and for each row the sums of which `answer_metrics` makes the figures."""
        inputs = self._prepare_inputs(inputs)
        inputs.pop("alternatives", None)
        labels = inputs["labels"][:, 1:]
        answered = labels != IGNORED
        with torch.inference_mode(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        logits = outputs["logits"].float()
        nll, right = torch.zeros_like(labels, dtype=torch.float32), torch.zeros_like(labels, dtype=torch.float32)
        nll[answered] = nn.functional.cross_entropy(logits, labels[answered], reduction="none")
        right[answered] = (logits.argmax(-1) == labels[answered]).float()
        count = answered.sum(1)
        sums = torch.stack([nll.sum(1), right.sum(1), (right.sum(1) == count).float(), count.float()], dim=1)
        return loss.detach(), sums, count


def pretrain(
    arguments: GenerativeArguments,
    train_dataset: Rows | None = None,
    eval_dataset: Rows | Mapping[str, Rows] | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Run stage 1.

    Args:
        arguments: Settings; `arguments.data` names the files to train on unless `train_dataset` is given.
        train_dataset: Rows with "messages"; paths of media are relative to the working folder, or media themselves.
        eval_dataset: Rows to evaluate on, or several sets by name.
        callbacks: For the trainer.

    Returns:
        The folder of the generative checkpoint, `arguments.output_dir`.

    Raises:
        ValueError: There is nothing to train on, nothing to train, or no checkpoint to go on from.
        InputError: A row can't be trained on.
        Interrupted: After Ctrl-C or SIGTERM; a checkpoint to go on from is saved.
    """
    started = time.time()
    set_seed(arguments.seed)
    folder = Path(arguments.output_dir)
    run, checkpoint = begin(arguments, train_dataset)
    if run.finished:
        return folder
    train_dataset = train_dataset or _open(arguments.data, arguments.weights, arguments.seed)
    if eval_dataset is None and arguments.eval_data:
        names = names_of(arguments.eval_data)
        eval_dataset = {name: JsonLines(path) for name, path in zip(names, arguments.eval_data, strict=True)}
        check_best_metric(arguments, [f"{name}_{figure}" for name in names for figure in FIGURES])
    omni, whole = load(arguments)
    head = whole.get_output_embeddings()
    model = whole
    if arguments.decoder == "lora":
        config = lora_config(
            omni.backbone, arguments.lora_r, arguments.lora_alpha, arguments.lora_dropout, arguments.towers
        )
        model = get_peft_model(whole, config)
    else:
        set_trainable(whole, omni.backbone, arguments.decoder, arguments.towers)
    hold_in_float32(model, arguments.dtype)
    parameters = count_parameters(model)
    if not parameters.trainable:
        raise ValueError("nothing is trained: the decoder and the towers are frozen")
    logger.warning(str(parameters))
    arguments.remove_unused_columns = False
    stop = StopOnSignal()
    trainer = GenerativeTrainer(
        model,
        head,
        args=arguments,
        data_collator=ChatCollator(omni, arguments.max_length),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        callbacks=[stop, *callbacks],
    )
    trainer.run = run
    is_adapter = arguments.decoder == "lora"
    kept = folder
    with stop.listening():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # First of all; evaluation may fail.
        if is_adapter and not stop.signal:
            kept = trainer.keep()
        elif trainer.is_world_process_zero() and not stop.signal:
            save_generative(omni, whole, folder)
    with telling(kept):
        figures = trainer.evaluate() if eval_dataset else {}
        if trainer.is_world_process_zero():
            if is_adapter:
                save_generative(omni, model.merge_and_unload(), folder)
            seconds = time.time() - started
            write_record(folder, "generative pretraining", arguments, trainer, parameters, figures, seconds)
    trainer.finish()
    trainer.accelerator.wait_for_everyone()
    return folder


def load(arguments: GenerativeArguments) -> tuple[OmniTransformer, PreTrainedModel]:
    """Load the model to train: the module that reads media, and the model with its head, which share their weights.

    The chat template is that of the backbone: LCO prompts, if it has them, are left out. An adapter is merged into its
    base first.

    Raises:
        ValueError: The model has no language head, or is an adapter, and LoRA is to be trained on it.
    """
    source = checkpoint_of(arguments.model, "base")
    check_start(source, arguments.revision, arguments.decoder)
    omni = OmniTransformer.of_backbone(
        source,
        revision=arguments.revision,
        model_kwargs={"dtype": arguments.dtype or "auto"},
    )
    merge_lora(omni.model)
    if isinstance(arguments.processing_kwargs, dict):
        omni.processing_kwargs = omni.reader(arguments.processing_kwargs).settings
    omni.processor.chat_template = chat_template.without_prompts(omni.processor.chat_template)
    whole = omni.generation_model()
    if whole.get_output_embeddings().weight.is_meta:
        raise ValueError(f"{arguments.model} has no language head; start from a generative checkpoint")
    return omni, whole


def save_generative(omni: OmniTransformer, whole: PreTrainedModel, folder: str | Path) -> None:
    """Write a generative checkpoint, with the settings of media that it was trained under.

    Its weights are in the dtype that the model was loaded in.
    """
    for parameter in whole.parameters():
        parameter.data = parameter.data.to(omni.checkpoint_dtype)
    with replacing_model(folder) as partial:
        whole.save_pretrained(partial)
        omni.processor.save_pretrained(partial)
        omni.save_config(str(partial))


def _open(paths: Sequence[str], weights: Sequence[float] | None, seed: int) -> Mixture:
    if not paths:
        raise ValueError("there is nothing to train on; pass --data with JSON-lines files of chats")
    return Mixture([JsonLines(path) for path in paths], weights, seed)


def main(argv: Sequence[str]) -> int:
    """Run `lco-embedding pretrain`."""
    transformers_logging.set_verbosity_info() if "-v" in argv else None
    folder = pretrain(parse(GenerativeArguments, argv, "lco-embedding pretrain"))
    sys.stdout.write(f"written to {folder}\n")
    return 0
