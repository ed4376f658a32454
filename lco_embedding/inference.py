"""How `encode` runs: batches by cost, prepared ahead of the model by threads, each after a prefix that is cached.

Items are taken in windows. Texts of a window are tokenized, media are estimated from their headers, and rows of like
length go together until their tokens, padding included, fill a batch. Threads decode and preprocess the next batches
while the model runs; no more of them wait than there are threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import logging as transformers_logging
from transformers.cache_utils import Cache

from lco_embedding.modules.batching import Row, plan_batches
from lco_embedding.modules.inputs import Item, Problem
from lco_embedding.modules.omni_transformer import OmniTransformer
from lco_embedding.modules.settings import ProcessingKwargs

WINDOW = 8192
"""Items that are planned at a time: enough to put like with like, few enough to begin at once."""

MAX_ROWS = 1024
"""Rows of a batch at most, unless a batch size is given; the tokens decide before that."""

CPU_BATCH_TOKENS = 1024
"""Tokens of a batch on a CPU: more do not run faster (`benchmarks/encode.py`), and take more memory."""

MEMORY_SHARE = 0.5
MIN_BATCH_TOKENS, MAX_BATCH_TOKENS = 2048, 65_536
"""On an accelerator a batch may take this share of the free memory, within these bounds of tokens."""

MAX_WORKERS = 8

PREFIX_WORTH = 32
"""A cached prefix pays if the longest row of a batch is at most so many times its length."""

MEDIA_TOKENS_AROUND = 48
"""About how many tokens a chat template and the prompt put around media; for estimates only."""

logger = transformers_logging.get_logger(__name__)


@dataclass(frozen=True)
class InferenceOptions:
    """Options of one call of `encode`.

    Args:
        prompt: A system message before each chat.
        task: For chat templates that use it.
        processing_kwargs: Settings of the processing, over those of the checkpoint.
        batch_size: Rows of a batch at most.
        max_batch_tokens: Tokens of a batch at most, padding included; found from the device and its memory if None.
        num_workers: Threads that prepare batches ahead of the model, 0 for none; found from the device if None.
        reuse_prefix: Whether what begins every chat is computed once.
        all_tokens: Whether the hidden states of all tokens are asked for, and not of the last alone.
    """

    prompt: str | None = None
    task: str | None = None
    processing_kwargs: ProcessingKwargs | None = None
    batch_size: int = MAX_ROWS
    max_batch_tokens: int | None = None
    num_workers: int | None = None
    reuse_prefix: bool = True
    all_tokens: bool = False

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One is not positive, or the number of workers is negative.
        """
        for name, least in (("batch_size", 1), ("max_batch_tokens", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass
class Prepared:
    """Rows that go through the model together, with their features, and the problems of items that could not."""

    rows: list[Row]
    problems: list[Problem]
    features: dict[str, Any] = field(default_factory=dict)

    @property
    def indices(self) -> list[int]:
        """The indices of all items that are done with it."""
        return [*(row.item.index for row in self.rows), *(problem.index for problem in self.problems)]


Given = TypeVar("Given")
Made = TypeVar("Made")
Forward = Callable[[dict[str, Any]], dict[str, Any]]


class Inference:
    """Runs a model on items.

    Args:
        omni: The module that reads inputs.
        forward: Runs the whole model on features that are on the device.
        device: Where.
        options: Of the call.
    """

    def __init__(
        self, omni: OmniTransformer, forward: Forward, device: torch.device, options: InferenceOptions
    ) -> None:
        self.omni = omni
        self.forward = forward
        self.device = device
        self.options = options
        self.max_tokens = options.max_batch_tokens or _find_max_tokens(omni, device)
        self.workers = _find_workers(device) if options.num_workers is None else options.num_workers
        self.prefix: list[int] = []
        if options.reuse_prefix and not options.all_tokens:
            self.prefix = omni.prefix(options.prompt, options.processing_kwargs, options.task)
        self._cache: Cache | None = None
        self._halved = False

    def run(self, items: Sequence[Item]) -> Iterator[tuple[Prepared, dict[str, Any] | None]]:
        """Yield batches with the output of the model, in no order; each output is None where there are only problems.

        Every batch is yielded when the next one has been launched, so that an accelerator never waits for its results
        to be read.
        """
        launched: deque[tuple[Prepared, dict[str, Any] | None]] = deque()
        for batch in self._prepared(items):
            launched.extend(self._launch(batch))
            while len(launched) > 1:
                yield launched.popleft()
        yield from launched

    def _prepared(self, items: Sequence[Item]) -> Iterator[Prepared]:
        """Yield batches in the order of the plan, prepared ahead by threads."""
        windows = (items[start : start + WINDOW] for start in range(0, len(items), WINDOW))
        if not self.workers:
            yield from map(self._prepare, chain.from_iterable(map(self._plan, windows)))
            return
        # One more thread, so that the next window is planned without keeping batches waiting.
        pool = ThreadPoolExecutor(self.workers + 1, thread_name_prefix="lco-prepare")
        try:
            plans = _ahead(pool, self._plan, windows, 1)
            yield from _ahead(pool, self._prepare, chain.from_iterable(plans), self.workers)
        finally:
            pool.shutdown(cancel_futures=True)

    def _plan(self, window: Sequence[Item]) -> list[list[Item | Row | Problem]]:
        """Return what goes into each batch: texts as tokenized rows, media as items that are yet to be decoded."""
        options = self.options
        reader = self.omni.reader(options.processing_kwargs)
        texts = [item for item in window if not item.media]
        rows, problems = self.omni.rows(texts, options.prompt, options.processing_kwargs, task=options.task)
        media = [item for item in window if item.media]
        entries: list[Item | Row | Problem] = [*rows, *media]
        lengths = [len(row.input_ids) for row in rows]
        lengths += [reader.estimate_tokens(item) + MEDIA_TOKENS_AROUND for item in media]
        plan = plan_batches(lengths, self.max_tokens, options.batch_size)
        batches = [[entries[index] for index in batch] for batch in plan]
        return [list(problems), *batches] if problems else batches

    def _prepare(self, batch: list[Item | Row | Problem]) -> Prepared:
        """Decode and tokenize what is not yet, and make the features of a batch; in a thread."""
        options = self.options
        rows = [entry for entry in batch if isinstance(entry, Row)]
        problems = [entry for entry in batch if isinstance(entry, Problem)]
        if items := [entry for entry in batch if isinstance(entry, Item)]:
            read, failed = self.omni.rows(items, options.prompt, options.processing_kwargs, task=options.task)
            rows, problems = rows + read, problems + failed
        return Prepared(rows, problems, self._features(rows) if rows else {})

    def _features(self, rows: list[Row]) -> dict[str, Any]:
        size = len(self.prefix)
        longest = max(len(row.input_ids) for row in rows)
        shared = size < longest <= PREFIX_WORTH * size and all(
            row.input_ids[:size] == self.prefix and len(row.input_ids) > size for row in rows
        )
        features = self.omni.inference_batch(rows, size if shared else 0, self.options.all_tokens)
        features["prefix"] = shared
        if self.device.type == "cuda":
            features = {
                key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in features.items()
            }
        return features

    def _launch(self, batch: Prepared) -> Iterator[tuple[Prepared, dict[str, Any] | None]]:
        """Run the model on a batch; on its halves if the memory does not suffice."""
        try:
            output = self._run(batch.features) if batch.rows else None
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch.rows) == 1:
                item = batch.rows[0].item
                raise MemoryError(
                    f"input {item.index} ({item.blocks[0].source}) of {len(batch.rows[0].input_ids)} tokens does not "
                    f"fit into the memory of {self.device}; cut it, or lower max_pixels or max_frames"
                ) from error
        else:
            yield batch, output
            return
        if not self._halved:
            logger.warning(
                f"A batch of {len(batch.rows)} rows did not fit into the memory of {self.device}; such batches are "
                f"halved. Pass max_batch_tokens below {self.max_tokens} to avoid it."
            )
            self._halved = True
        batch.features = {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(batch.rows) // 2
        for rows, problems in ((batch.rows[:half], batch.problems), (batch.rows[half:], [])):
            yield from self._launch(Prepared(rows, problems, self._features(rows)))

    def _run(self, features: dict[str, Any]) -> dict[str, Any]:
        moved = {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in features.items()
        }
        moved["prefix"] = self._cached_prefix() if features["prefix"] else None
        return self.forward(moved)

    def _cached_prefix(self) -> Cache:
        if self._cache is None:
            self._cache = self.omni.cache_prefix(self.prefix)
        return self._cache


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Given], Made], arguments: Iterable[Given], count: int
) -> Iterator[Made]:
    """Yield what `work` makes of each argument, in order; threads are so many ahead of what is asked for."""
    waiting: deque[Future[Made]] = deque()
    for argument in arguments:
        waiting.append(pool.submit(work, argument))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _find_workers(device: torch.device) -> int:
    """Return how many threads prepare batches: most cores beside an accelerator.

    None beside a model on the CPU, which takes all cores: a thread only makes its matrix products wait.
    """
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, MAX_WORKERS))


def _find_max_tokens(omni: OmniTransformer, device: torch.device) -> int:
    """Return how many tokens a batch may have, from the free memory and the width of the decoder."""
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    text = omni.config.get_text_config()
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # What lives at once in a layer: its input, its norm, queries, keys, values and their rotation; and three of the
    # feed-forward network. A tower takes about as much for the four patches of a token.
    numbers = 8 * text.hidden_size + 3 * text.intermediate_size
    tokens = int(MEMORY_SHARE * free / (2 * numbers * omni.model.dtype.itemsize))
    return max(MIN_BATCH_TOKENS, min(tokens, MAX_BATCH_TOKENS))
