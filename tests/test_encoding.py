"""How `encode` runs: whatever the batches, threads and caches, the embeddings are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lco_embedding import LCOEmbedding
from lco_embedding.encoding import MAX_ROWS, EncodeOptions, Encoding
from lco_embedding.modules.inputs import InputError, Problem
from lco_embedding.modules.omni_transformer import OmniTransformer
from tests.conftest import clip, mixed_inputs, noise, tone

TEXTS = ["a red circle", "word " * 40, "x", "\n\na line break first", " a blank first", "a red circle", "z " * 9]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The features of every batch that goes through the model, from then on."""
    seen: list[dict[str, Any]] = []
    forward = OmniTransformer.forward

    def spy(self: OmniTransformer, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        seen.append(dict(features))
        return forward(self, features, **kwargs)

    monkeypatch.setattr(OmniTransformer, "forward", spy)
    return seen


def inputs_for(model: LCOEmbedding) -> list[Any]:
    """Return inputs of all kinds that a model takes."""
    return [entry for entry in [*TEXTS, *mixed_inputs()] if not model.omni.parse([entry])[1]]


@pytest.mark.parametrize("prompt", [None, "You are a helpful assistant who looks for what is said to be alike. " * 8])
@pytest.mark.parametrize("architecture", ["thinker", "qwen2_5_vl", "llava_next"])
def test_the_cached_prefix_changes_nothing(
    architecture: str, prompt: str | None, checkpoints: Callable[[str], Path], batches: list[dict[str, Any]]
) -> None:
    model = LCOEmbedding(checkpoints(architecture), device="cpu")
    inputs = inputs_for(model)
    assert len(inputs) > len(TEXTS)
    found = model.encode(inputs, prompt=prompt)
    used = [batch for batch in batches if batch.get("prefix_cache") is not None]
    assert used
    size = len(model.omni.prefix(model.omni.reader(), prompt))
    assert all(batch["prefix_cache"].get_seq_length() == size > 0 for batch in used)
    batches.clear()
    expected = model.encode(inputs, prompt=prompt, reuse_prefix=False)
    assert all("prefix_cache" not in batch for batch in batches)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_prefix_is_right_in_bfloat16(thinker: Path) -> None:
    model = LCOEmbedding(thinker, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    found, expected = (
        model.encode(TEXTS, reuse_prefix=reuse, convert_to_tensor=True).float() for reuse in (True, False)
    )
    assert torch.cosine_similarity(found, expected).min() >= 0.9999


def test_a_prefix_serves_only_rows_that_begin_with_it(shared_model: LCOEmbedding) -> None:
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a red circle"}]
    inputs = [system, "a red circle"]
    found = shared_model.encode(inputs)
    np.testing.assert_allclose(found, shared_model.encode(inputs, reuse_prefix=False), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("limit", [60, 150, 100_000])
def test_batches_hold_so_many_tokens(limit: int, shared_model: LCOEmbedding, batches: list[dict[str, Any]]) -> None:
    texts = [f"{number} " + "word " * (number % 7) for number in range(40)]
    found = shared_model.encode(texts, max_batch_tokens=limit, reuse_prefix=False)
    sizes = [batch["input_ids"].shape for batch in batches]
    assert sum(rows for rows, _ in sizes) == len(texts)
    assert all(rows * tokens <= limit or rows == 1 for rows, tokens in sizes)
    assert (len(sizes) == 1) == (limit == 100_000)
    np.testing.assert_allclose(found, shared_model.encode(texts, batch_size=1), atol=1e-5)


def test_the_batch_size_is_an_upper_bound(shared_model: LCOEmbedding, batches: list[dict[str, Any]]) -> None:
    texts = [str(number) for number in range(10)]
    shared_model.encode(texts, batch_size=4)
    assert [len(batch["input_ids"]) for batch in batches] == [4, 4, 2]
    batches.clear()
    shared_model.encode(texts, None, None, 3)
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 3, 1]
    batches.clear()
    shared_model.encode(texts)
    assert [len(batch["input_ids"]) for batch in batches] == [10]
    assert MAX_ROWS > 10


def test_equal_inputs_are_embedded_once(
    shared_model: LCOEmbedding, batches: list[dict[str, Any]], samples: Path
) -> None:
    picture, sound = samples / "images" / "red_circle.png", tone()
    inputs = ["a", picture, "b", "a", sound, picture, {"text": "a"}, sound, picture.read_bytes(), sound.copy()]
    found = shared_model.encode(inputs)
    assert sum(len(batch["input_ids"]) for batch in batches) == 6
    np.testing.assert_allclose(found, np.concatenate([shared_model.encode([entry]) for entry in inputs]), atol=1e-5)


def test_twins_of_a_broken_input_are_reported_each(shared_model: LCOEmbedding, tmp_path: Path, samples: Path) -> None:
    broken = tmp_path / "half.jpg"
    whole = (samples / "images" / "blue_square.jpg").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    problems: list[Problem] = []
    found = shared_model.encode(["a", broken, "b", broken], on_error=problems.append)
    assert sorted(problem.index for problem in problems) == [1, 3]
    assert np.isnan(found[[1, 3]]).all()
    assert np.isfinite(found[[0, 2]]).all()
    with pytest.raises(InputError, match=r"half\.jpg"):
        shared_model.encode(["a", broken, "b", broken])


def running() -> list[threading.Thread]:
    """Return the threads that prepare batches."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("lco-prepare")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_change_nothing(workers: int, shared_model: LCOEmbedding) -> None:
    inputs = mixed_inputs() * 2
    expected = np.concatenate([shared_model.encode([entry]) for entry in inputs])
    found = shared_model.encode(inputs, max_batch_tokens=300, num_workers=workers)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not running()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_threads_end_with_the_call(
    error: type[BaseException], shared_model: LCOEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OmniTransformer, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(error()))
    with pytest.raises(error):
        shared_model.encode([noise(84, 84, 3, seed=seed) for seed in range(9)], batch_size=1, num_workers=2)
    assert not running()


def test_few_batches_wait_for_the_model(shared_model: LCOEmbedding, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = threading.Semaphore(0)
    counts: list[int] = []
    prepare = Encoding._prepare

    def counting(self: Encoding, batch: Any) -> Any:
        result = prepare(self, batch)
        prepared.release()
        return result

    monkeypatch.setattr(Encoding, "_prepare", counting)
    options = EncodeOptions(batch_size=1, num_workers=2)
    items, _ = shared_model.omni.parse([str(number) for number in range(40)])
    encoding = Encoding(shared_model.omni, shared_model.omni.reader(), shared_model, torch.device("cpu"), options)
    with torch.inference_mode():
        for number, _ in enumerate(encoding.run(items)):
            counts.append(prepared._value - number)
    # The one that is yielded, the one that is launched, the one that is asked for, and one for each thread.
    assert len(counts) == 40
    assert max(counts) <= 3 + options.num_workers  # type: ignore[operator]


class Memory:
    """A memory that holds so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.forward = OmniTransformer.forward

    def __call__(self, omni: OmniTransformer, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if len(features["input_ids"]) > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return self.forward(omni, features, **kwargs)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that limits how many rows the model can take."""

    def limit(rows: int) -> None:
        memory = Memory(rows)
        monkeypatch.setattr(OmniTransformer, "forward", lambda self, features, **kw: memory(self, features, **kw))

    yield limit
    monkeypatch.undo()


def test_a_batch_that_does_not_fit_is_halved(
    shared_model: LCOEmbedding, small_memory: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [*TEXTS, *mixed_inputs()]
    expected = shared_model.encode(inputs)
    small_memory(2)
    warnings: list[str] = []
    monkeypatch.setattr("lco_embedding.encoding.logger.warning", warnings.append)
    np.testing.assert_allclose(shared_model.encode(inputs), expected, atol=1e-5)
    (warning,) = warnings
    assert "halved" in warning
    small_memory(0)
    with pytest.raises(MemoryError, match=r"input \d+ .* does not fit"):
        shared_model.encode(inputs)


def test_windows_change_nothing(shared_model: LCOEmbedding, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [*mixed_inputs(), *TEXTS]
    expected = shared_model.encode(inputs)
    monkeypatch.setattr("lco_embedding.encoding.WINDOW", 3)
    for workers in (0, 2):
        np.testing.assert_allclose(shared_model.encode(inputs, num_workers=workers), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{"max_batch_tokens": 0}, {"num_workers": -1}, {"batch_size": 0}])
def test_impossible_numbers_are_refused(options: dict[str, Any], shared_model: LCOEmbedding) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        shared_model.encode(["a"], **options)


def test_token_embeddings_hold_every_token(shared_model: LCOEmbedding) -> None:
    texts = ["a red circle", "word " * 9]
    states = shared_model.encode(texts, output_value="token_embeddings")
    rows, _ = shared_model.omni.rows(shared_model.omni.parse(texts)[0], shared_model.omni.reader())
    assert [len(state) for state in states] == [len(row.input_ids) for row in rows]
    last: NDArray[Any] = torch.stack([state[-1] for state in states]).numpy()
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    np.testing.assert_allclose(last, shared_model.encode(texts), atol=1e-5)


def test_progress_counts_inputs_and_tokens(shared_model: LCOEmbedding, capsys: pytest.CaptureFixture[str]) -> None:
    shared_model.encode(["a", "b", "a", {"video": clip()}], show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert "tokens/s" in shown
