"""Benchmarks by name, SeaDoc from its data set, runs that go on, and scores as the Hub shows them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml

from lco_embedding import LCOEmbedding
from tests.conftest import noise
from tests.media_files import write_image

mteb = pytest.importorskip("mteb", reason="mteb takes Python 3.11 or later")

from mteb.mocks import mock_tasks  # noqa: E402

from lco_embedding.cli import main  # noqa: E402
from lco_embedding.evaluation.benchmarks import by_category, export, mean, run  # noqa: E402
from lco_embedding.evaluation.mteb_encoder import MtebEncoder  # noqa: E402
from lco_embedding.evaluation.tasks import BENCHMARKS, CONFIGS, SeaDocRetrieval, TaskGroup, find_tasks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

PAGES, QUESTIONS = 12, 8

CARD = """\
---
configs:
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus/corpus-*
- config_name: default
  data_files:
  - split: train
    path: data/train-*
- config_name: qrels
  data_files:
  - split: test
    path: qrels/test-*
- config_name: query
  data_files:
  - split: test
    path: query/test-*
---
"""
"""The layout of LCO-Embedding/SeaDoc, as its data card has it; "default" holds the pages once more."""


@pytest.fixture(scope="module")
def encoder(shared_model: LCOEmbedding) -> MtebEncoder:
    return MtebEncoder(shared_model)


@pytest.fixture
def seadoc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set of the layout of SeaDoc, in the place of the one of the Hub."""
    home = tmp_path / "SeaDoc"
    images = [str(write_image(tmp_path / f"{index}.png", noise(56, 84, 3, seed=index))) for index in range(PAGES)]
    pages: dict[str, list[Any]] = {"id": [f"page-{index}" for index in range(PAGES)], "modality": ["image"] * PAGES}
    pages["image"] = [{"bytes": Path(path).read_bytes(), "path": None} for path in images]
    texts = {"id": [f"q-{index}" for index in range(QUESTIONS)], "modality": ["text"] * QUESTIONS}
    texts["text"] = [f"Which page has the number {index}?" for index in range(QUESTIONS)]
    relevant = {
        "query-id": texts["id"],
        "corpus-id": [f"page-{index}" for index in range(QUESTIONS)],
        "score": [1] * QUESTIONS,
    }
    parts = {"corpus/corpus": pages, "data/train": pages, "query/test": texts, "qrels/test": relevant}
    for name, columns in parts.items():
        rows = datasets.Dataset.from_dict(columns)
        if "image" in columns:
            rows = rows.cast_column("image", datasets.Image())
        path = home / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        rows.to_parquet(path)
    (home / "README.md").write_text(CARD)
    source = {"path": str(home), "revision": "main"}
    monkeypatch.setattr(SeaDocRetrieval, "metadata", SeaDocRetrieval.metadata.model_copy(update={"dataset": source}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return home


# --- names ----------------------------------------------------------------------------------------------------------


def test_groups_are_the_benchmarks_of_mteb() -> None:
    groups = {group.name: group for group in find_tasks([*BENCHMARKS, "seadoc"])}
    counts = {name: len(group.tasks) for name, group in groups.items()}
    assert counts["mieb-lite"] == 51
    assert counts["maeb"] == 30
    assert counts["mveb"] == 23
    assert counts["vidore"] == counts["vidore-v1"] + counts["vidore-v2"] == 14
    assert counts["vidore-v3"] == 10
    assert counts["seadoc"] == 1
    assert len({task.metadata.type for task in groups["mieb-lite"].tasks}) == 10
    assert {"audio"} < set().union(*(task.metadata.modalities for task in groups["maeb"].tasks))


def test_single_tasks_are_reported_together_and_mteb_names_work() -> None:
    groups = find_tasks(["STS13VisualSTS", "ViDoRe(v2)", "SeaDocRetrieval"])
    assert [group.title for group in groups] == ["ViDoRe(v2)", "Tasks"]
    assert [task.metadata.name for task in groups[1].tasks] == ["STS13VisualSTS", "SeaDocRetrieval"]


@pytest.mark.parametrize(("name", "hint"), [("STS13VisualST", "STS13VisualSTS"), ("mieb-light", "mieb-lite")])
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"{name}'; did you mean .*{hint}"):
        find_tasks([name])


# --- SeaDoc ---------------------------------------------------------------------------------------------------------


def test_seadoc_is_read_from_its_parts(seadoc: Path, encoder: MtebEncoder, shared_model: LCOEmbedding) -> None:
    task = SeaDocRetrieval()
    task.load_data()
    split = task.dataset["default"]["test"]
    assert (len(split["corpus"]), len(split["queries"])) == (PAGES, QUESTIONS)
    assert split["relevant_docs"] == {f"q-{index}": {f"page-{index}": 1} for index in range(QUESTIONS)}
    (score,) = run(encoder, TaskGroup("seadoc", "SeaDoc", (task,)), mteb.ResultCache(seadoc / "results"), {})
    assert not score.error
    # nDCG@10 as it follows from the embeddings themselves.
    texts = shared_model.encode([{"text": text} for text in split["queries"]["text"]])
    images = shared_model.encode([seadoc.parent / f"{index}.png" for index in range(PAGES)])
    ranks = [1 + int((row > row[index]).sum()) for index, row in enumerate(texts @ images.T)]
    expected = np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks])
    assert score.score == pytest.approx(expected, abs=2e-5)


def test_seadoc_with_other_columns_says_so(seadoc: Path) -> None:
    rows = datasets.Dataset.from_dict({"query-id": ["q-0"], "query": ["Which?"]})
    rows.to_parquet(seadoc / "query" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="'query' has the columns query-id, query; expected id, text as well"):
        SeaDocRetrieval().load_data()


def test_seadoc_on_the_hub() -> None:
    task = SeaDocRetrieval()
    assert task.metadata.dataset["path"] == "LCO-Embedding/SeaDoc"
    assert len(task.metadata.dataset["revision"]) == 40
    assert set(CONFIGS) == {"corpus", "query", "qrels"}
    assert task.metadata.is_filled() or task.metadata.date is None  # nothing but the unknown date is missing
    assert "SeaDocRetrieval" not in {each.metadata.name for each in mteb.get_tasks()}, "mteb has it by now: use its own"


# --- runs -----------------------------------------------------------------------------------------------------------


class Failing(mock_tasks.MockSTSTask):  # type: ignore[misc]
    """A task whose data set can't be reached."""

    metadata = mock_tasks.MockSTSTask.metadata.model_copy(update={"name": "FailingSTS"})

    def load_data(self, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach 'someone/data' on the Hub")


def test_a_failing_task_costs_none_of_the_others(encoder: MtebEncoder, tmp_path: Path) -> None:
    tasks = (Failing(), mock_tasks.MockRetrievalTask(), mock_tasks.MockVisualSTSTask())
    scores = list(run(encoder, TaskGroup("some", "Some", tasks), mteb.ResultCache(tmp_path), {"batch_size": 4}))
    assert [bool(score.error) for score in scores] == [True, False, True]
    assert scores[0].error == "Couldn't reach 'someone/data' on the Hub"
    assert scores[2].error == "its score is not a number"  # two pictures alone have no correlation
    assert mean(scores) == scores[1].score
    counts = {name: len(group) for name, group in by_category(scores).items()}
    assert counts == {"STS": 1, "Retrieval": 1, "VisualSTS(eng)": 1}


def test_scores_are_exported_as_mteb_publishes_them(
    encoder: MtebEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = mock_tasks.MockRetrievalTask()
    scores = list(run(encoder, TaskGroup("some", "Some", (task, Failing())), mteb.ResultCache(tmp_path), {}))
    (path,) = export(scores, tmp_path / "checkpoint", user="someone")
    assert path == tmp_path / "checkpoint" / ".eval_results" / f"{task.metadata.name}.yaml"
    got = yaml.safe_load(path.read_text())
    # It looks the task up by name, among its own.
    monkeypatch.setitem(import_module("mteb.get_tasks")._TASKS_REGISTRY, task.metadata.name, type(task))
    result = scores[0].result
    assert result is not None
    assert got == yaml.safe_load(result._to_hf_benchmark_result("someone").to_yaml())
    assert got[-1]["value"] == pytest.approx(100 * (scores[0].score or 0), abs=1e-3)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_runs_what_it_can_and_goes_on(
    seadoc: Path, thinker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, checkpoint = tmp_path / "out", tmp_path / "checkpoint"
    words = ["evaluate", "--model", str(thinker), "--tasks", "seadoc", "ESC50_Zeroshot", "--output", str(output)]
    assert main([*words, "--export", str(checkpoint), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert "ESC50_Zeroshot: Couldn't reach" in printed.err
    assert "SeaDoc: local/" in printed.out
    assert (checkpoint / ".eval_results" / "SeaDocRetrieval.yaml").is_file()
    report = json.loads((output / "seadoc.json").read_text())
    assert report["figures"]["mean"] == report["figures"]["SeaDocRetrieval"]
    assert report["counts"] == {"tasks": 1, "scored": 1}
    assert "mteb" in report["versions"]
    assert report["command"].startswith(f"lco-embedding evaluate --model {thinker.name} --tasks seadoc ESC50_Zeroshot")
    assert str(tmp_path) not in report["command"]
    failed = json.loads((output / "tasks.json").read_text())
    assert failed["figures"] == {}
    assert "Couldn't reach" in failed["errors"][0]

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(LCOEmbedding, "encode", refuse)
    assert main(["evaluate", "--model", str(thinker), "--tasks", "seadoc", "--output", str(output)]) == 0
    assert json.loads((output / "seadoc.json").read_text())["figures"] == report["figures"]


def test_mistyped_names_are_told_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", "--tasks", "mieb-lit", "--model", "nowhere", "--output", str(tmp_path)]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_without_mteb_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lco_embedding import evaluation

    monkeypatch.setattr(evaluation, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="evaluate"):
        _ = evaluation.MtebEncoder
    assert main(["evaluate", "--tasks", "seadoc", "--output", str(tmp_path)]) == 2
    assert "pip install 'lco-embedding[evaluate]'" in capsys.readouterr().err
