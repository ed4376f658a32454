"""The encode engine: plan batches by tokens, prepare them ahead of the model, run them, and collect the results.

Items are taken in windows. Texts of a window are tokenized, media are estimated from their headers, and rows of like
length go together until their tokens, padding included, fill a batch. Threads decode and preprocess the next batches
while the model runs; no more of them wait than there are threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import torch
from sentence_transformers.util import truncate_embeddings
from torch import Tensor, nn
from tqdm.autonotebook import tqdm
from transformers import logging as transformers_logging
from transformers.cache_utils import Cache

from lco_embedding.modules.batch_limits import find_max_tokens, find_workers
from lco_embedding.modules.batching import Row, plan_batches
from lco_embedding.modules.inputs import InputError, Item, Problem
from lco_embedding.modules.media_features import MediaReader
from lco_embedding.modules.omni_transformer import OmniTransformer

WINDOW = 8192
"""Items that are planned at a time: enough to put like with like, few enough to begin at once."""

MAX_ROWS = 1024
"""Rows of a batch at most, unless a batch size is given; the tokens decide before that."""

PREFIX_WORTH = 32
"""A cached prefix pays if the longest row of a batch is at most so many times its length."""

MEDIA_TOKENS_AROUND = 48
"""About how many tokens a chat template and the prompt put around media; for estimates only."""

logger = transformers_logging.get_logger(__name__)


@dataclass(frozen=True)
class EncodeOptions:
    """How one call of `encode` runs.

    Args:
        prompt: A system message before each chat.
        task: For chat templates that use it.
        batch_size: Rows of a batch at most.
        max_batch_tokens: Tokens of a batch at most, padding included; found from the device and its memory if None.
        num_workers: Threads that prepare batches ahead of the model, 0 for none; found from the device if None.
        reuse_prefix: Whether what begins every chat is computed once.
    """

    prompt: str | None = None
    task: str | None = None
    batch_size: int = MAX_ROWS
    max_batch_tokens: int | None = None
    num_workers: int | None = None
    reuse_prefix: bool = True

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
    """Rows that go through the model together, with their features, and the problems of items that could not.

    Args:
        rows: The rows.
        problems: The problems.
        features: What the model takes; empty without rows.
        has_prefix: Whether the features go on from the cached prefix.
    """

    rows: list[Row]
    problems: list[Problem]
    features: dict[str, Any] = field(default_factory=dict)
    has_prefix: bool = False

    @property
    def indices(self) -> list[int]:
        """The indices of all items that are done with it."""
        return [*(row.item.index for row in self.rows), *(problem.index for problem in self.problems)]


Given = TypeVar("Given")
Made = TypeVar("Made")
Forward = Callable[[dict[str, Any]], dict[str, Any]]


class Encoding:
    """Runs a model on items, once.

    Args:
        omni: The module that reads inputs.
        reader: The reader of the call.
        forward: Runs the whole model on features that are on the device.
        device: Device to run on.
        options: How the call runs.
    """

    def __init__(
        self,
        omni: OmniTransformer,
        reader: MediaReader,
        forward: Forward,
        device: torch.device,
        options: EncodeOptions,
    ) -> None:
        self.omni = omni
        self.reader = reader
        self.forward = forward
        self.device = device
        self.options = options
        self.max_tokens = options.max_batch_tokens or find_max_tokens(omni.model, device)
        self.workers = find_workers(device) if options.num_workers is None else options.num_workers
        self.prefix: list[int] = []
        if options.reuse_prefix:
            self.prefix = omni.prefix(reader, options.prompt, options.task)
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
        rows, problems = self._rows([item for item in window if not item.media])
        media = [item for item in window if item.media]
        entries: list[Item | Row | Problem] = [*rows, *media]
        lengths = [len(row.input_ids) for row in rows]
        lengths += [self.reader.estimate_tokens(item) + MEDIA_TOKENS_AROUND for item in media]
        plan = plan_batches(lengths, self.max_tokens, self.options.batch_size)
        batches = [[entries[index] for index in batch] for batch in plan]
        return [list(problems), *batches] if problems else batches

    def _prepare(self, batch: list[Item | Row | Problem]) -> Prepared:
        """Decode and tokenize what is not yet, and make the features of a batch; in a thread."""
        rows = [entry for entry in batch if isinstance(entry, Row)]
        problems = [entry for entry in batch if isinstance(entry, Problem)]
        if items := [entry for entry in batch if isinstance(entry, Item)]:
            read, failed = self._rows(items)
            rows, problems = rows + read, problems + failed
        return self._collated(rows, problems)

    def _rows(self, items: Sequence[Item]) -> tuple[list[Row], list[Problem]]:
        return self.omni.rows(items, self.reader, self.options.prompt, task=self.options.task)

    def _collated(self, rows: list[Row], problems: list[Problem]) -> Prepared:
        if not rows:
            return Prepared(rows, problems)
        size = len(self.prefix)
        longest = max(len(row.input_ids) for row in rows)
        shared = size < longest <= PREFIX_WORTH * size and all(
            row.input_ids[:size] == self.prefix and len(row.input_ids) > size for row in rows
        )
        features = self.omni.inference_batch(rows, size if shared else 0)
        if self.device.type == "cuda":
            features = {
                key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in features.items()
            }
        return Prepared(rows, problems, features, has_prefix=shared)

    def _launch(self, batch: Prepared) -> Iterator[tuple[Prepared, dict[str, Any] | None]]:
        """Run the model on a batch; on its halves if the memory does not suffice."""
        try:
            output = self._run(batch) if batch.rows else None
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
            yield from self._launch(self._collated(rows, problems))

    def _run(self, batch: Prepared) -> dict[str, Any]:
        moved = {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.features.items()
        }
        if batch.has_prefix:
            moved["prefix_cache"] = self._cached_prefix()
        return self.forward(moved)

    def _cached_prefix(self) -> Cache:
        if self._cache is None:
            self._cache = self.omni.cache_prefix(self.prefix)
        return self._cache


@dataclass(frozen=True)
class OutputOptions:
    """What a call of `encode` returns of each row.

    Args:
        value: "sentence_embedding", "token_embeddings", or None for all outputs of the model.
        truncate_dim: Dimensions of the embedding that are kept; None: all.
        normalize: Whether embeddings are normalised again after that.
        to_cpu: Whether results are moved to the CPU.
    """

    value: str | None = "sentence_embedding"
    truncate_dim: int | None = None
    normalize: bool = False
    to_cpu: bool = True


def encode_items(
    encoding: Encoding, items: Sequence[Item], output: OutputOptions, raise_errors: bool, show_progress_bar: bool
) -> tuple[dict[int, Any], list[Problem]]:
    """Embed items, equal ones once.

    Args:
        encoding: The engine.
        items: The items.
        output: What is returned of each.
        raise_errors: Raise at the first problem instead of collecting problems.
        show_progress_bar: Show the progress on the terminal.

    Returns:
        The result of each item by its index, and the problems of those that have none.

    Raises:
        InputError: An item can't be read, and `raise_errors` is set.
        FloatingPointError: The model gave a state that is not finite, and `raise_errors` is set.
    """
    different, duplicates = _without_duplicates(items)
    results: dict[int, Any] = {}
    problems: list[Problem] = []
    cut = tokens = 0
    started = time.perf_counter()
    with tqdm(total=len(items), desc="Embedding", unit="input", disable=not show_progress_bar) as progress:
        for batch, states in encoding.run(different):
            rows, found = batch.rows, batch.problems
            if found and raise_errors:
                raise InputError(found)
            if states is not None:
                broken = _not_finite(states["sentence_embedding"], [row.item for row in rows])
                if broken and raise_errors:
                    raise _not_finite_error(broken)
                outputs = _split(states, output, len(rows))
                results |= {row.item.index: value for row, value in zip(rows, outputs, strict=True)}
                found = [*found, *broken]
            for problem in found:
                results.pop(problem.index, None)
                problems += [replace(problem, index=index) for index in duplicates[problem.index]]
            cut += sum(len(duplicates[row.item.index]) for row in rows if row.was_cut)
            tokens += sum(len(row.input_ids) for row in rows)
            progress.set_postfix_str(f"{tokens / (time.perf_counter() - started):,.0f} tokens/s", refresh=False)
            progress.update(sum(len(duplicates[index]) for index in batch.indices))
    if empty := sum(item.is_empty for item in items):
        logger.warning(f"{empty} input(s) are empty texts; what is embedded is the prompt around nothing.")
    if cut:
        logger.warning(f"The text of {cut} input(s) is longer than the limit and was cut before the prompt.")
    of_all = {index: results[first] for first, indices in duplicates.items() if first in results for index in indices}
    return of_all, problems


def _not_finite(embeddings: Tensor, items: Sequence[Item]) -> list[Problem]:
    finite = torch.isfinite(embeddings).all(dim=1).tolist()
    return [
        Problem(item.index, item.blocks[0].source, "the model's hidden state is not finite")
        for item, is_finite in zip(items, finite, strict=True)
        if not is_finite
    ]


def _not_finite_error(problems: Sequence[Problem]) -> FloatingPointError:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return FloatingPointError(
        f"{len(problems)} embedding(s) are not finite:\n{listed}\n"
        "The weights may be broken, or the dtype too narrow: try model_kwargs={'dtype': torch.bfloat16} "
        "or torch.float32."
    )


def _without_duplicates(items: Sequence[Item]) -> tuple[list[Item], dict[int, list[int]]]:
    """Leave out items that say the same as an earlier one.

    Returns:
        The items that differ, and for the index of each those of its duplicates, itself first.
    """
    firsts: dict[Any, Item] = {}
    duplicates: dict[int, list[int]] = {}
    for item in items:
        first = firsts.setdefault(item.identity, item)
        duplicates.setdefault(first.index, []).append(item.index)
    return list(firsts.values()), duplicates


def _split(states: dict[str, Any], output: OutputOptions, count: int) -> list[Any]:
    """Split the output of the model for a batch into one value for each row."""
    if output.truncate_dim is not None:
        states["sentence_embedding"] = truncate_embeddings(states["sentence_embedding"], output.truncate_dim)
    if output.value == "token_embeddings":
        mask = states["attention_mask"].bool()
        return [hidden[kept] for hidden, kept in zip(states["token_embeddings"], mask, strict=True)]
    if output.value is None:
        return [
            {
                name: value[index] if isinstance(value, Tensor) and value.ndim and len(value) == count else value
                for name, value in states.items()
            }
            for index in range(count)
        ]
    embeddings = states["sentence_embedding"]
    if output.normalize:
        embeddings = nn.functional.normalize(embeddings, p=2, dim=1)
    return list(embeddings.cpu() if output.to_cpu else embeddings)


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
