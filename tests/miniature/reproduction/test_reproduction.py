"""The whole command at the least sizes: a report whose every figure is of the run, which goes on where it was."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lco_embedding.checkpoints.builtin import checkpoint_of
from lco_embedding.cli import main
from lco_embedding.evaluation.retrieval import Estimate
from lco_embedding.miniature.benchmark import evaluate, make_pool
from lco_embedding.miniature.reproduction import experiments, settings
from lco_embedding.miniature.reproduction.claims import Claim
from lco_embedding.miniature.reproduction.experiments import Experiments, Findings, randomise
from lco_embedding.miniature.reproduction.measures import chance, gains, measure, runic_pool
from lco_embedding.miniature.reproduction.report import to_html, to_markdown
from lco_embedding.miniature.reproduction.sections import Section, geometry, retrieval
from lco_embedding.miniature.reproduction.steps import Steps
from lco_embedding.model import LCOEmbedding
from lco_embedding.training.record import NAME

LEAST = replace(
    settings.QUICK, steps=2, rows=4, count=24, chats=4, document_steps=2, document_rows=4, clip_rates=(1e-4,)
)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run at the least sizes, with two of the stages."""
    folder = tmp_path_factory.mktemp("reproduction")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "QUICK", LEAST)
        stages = folder / "stages"
        stages.mkdir()
        for name in ("step-0200", "step-1600"):
            (stages / name).symlink_to(experiments.STAGES / name)
        patch.setattr(experiments, "STAGES", stages)
        assert main(["reproduce", "--quick", "--output", str(folder)]) == 0
    return folder


def test_the_report_tells_every_claim_with_a_verdict(output: Path) -> None:
    text = (output / "report.md").read_text()
    for number in range(1, 6):
        assert f"\n## {number}. " in text
    verdicts = re.findall(r"\] \| (holds|does not hold|not decided) \|$", text, flags=re.M)
    assert len(verdicts) == 6 + 7 + 4 + 6 + 3
    assert "lco-embedding reproduce --quick" in text
    assert f"torch {version('torch')}" in text
    for plot in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (output / plot).read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_no_other_file(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert "http" not in re.sub(r"<p>.*?</p>", "", page, flags=re.S)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 6
    assert {base64.b64decode(each) for each in pictures} == {p.read_bytes() for p in (output / "plots").iterdir()}
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_figures_are_those_of_the_run(output: Path) -> None:
    (step,) = (output / "steps").glob("measure-base-*.json")
    measured = json.loads(step.read_text())["result"]
    value = float(np.mean(gains(measured["image"]["text_to"])))
    row = next(line for line in (output / "report.md").read_text().splitlines() if line.startswith("| base, before"))
    assert row.split(" | ")[2].startswith(f"{value:.3f} [")


def test_a_second_run_goes_on_and_reports_the_same(output: Path, monkeypatch, capsys) -> None:
    before = (output / "report.md").read_text()
    monkeypatch.setattr(settings, "QUICK", LEAST)
    monkeypatch.setattr(experiments, "STAGES", output / "stages")
    monkeypatch.setattr(experiments, "activate", None)  # nothing is trained again
    monkeypatch.setattr(experiments, "pretrain", None)
    assert main(["reproduce", "--quick", "--output", str(output)]) == 0
    assert (output / "report.md").read_text() == before
    assert "tune-base-lora-test-0: done before" in capsys.readouterr().out


def test_measures_agree_with_the_benchmark() -> None:
    base = checkpoint_of("miniature", "base")
    measured = measure(base, ["sound"], 40)["sound"]
    expected = evaluate(
        LCOEmbedding(base, device="cpu", model_kwargs={"dtype": torch.float32}), count=40, kinds=["sound"]
    )
    for ours, theirs in (("text_to", "text to sound"), ("to_text", "sound to text")):
        assert gains(measured[ours]).mean() == pytest.approx(expected[theirs].ndcg[10].value)
    assert len(measured["anisotropy"]) == len(measured["mutual_knn"]) == 5
    assert measured["anisotropy"][0] == pytest.approx(1.0)
    assert np.isnan(measured["mutual_knn"]).tolist() == [True, False, False, False, False]
    assert np.mean(measured["shared"]) == pytest.approx(measured["mutual_knn"][-1], abs=1e-4)


def test_gains_and_chance() -> None:
    assert gains([1, 3, 10, 11]).tolist() == pytest.approx([1, 0.5, 1 / np.log2(11), 0])
    assert chance(10) == pytest.approx(gains(range(1, 11)).mean())


def test_pages_are_distinct_and_in_runes_and_follow_from_the_seed() -> None:
    pages, captions = runic_pool("test", 30)
    again, _ = runic_pool("test", 30)
    assert len(set(captions)) > 25
    assert all(np.array_equal(a, b) for a, b in zip(pages, again, strict=True))
    latin = make_pool("document", "test", 30)
    assert not any(np.array_equal(a, b) for a, b in zip(pages, latin.media, strict=True))


def test_the_control_has_learned_nothing(tmp_path: Path) -> None:
    base = Path(checkpoint_of("miniature", "base"))
    control = randomise(base, tmp_path / "control", 1)
    ours, theirs = (load_file(each / "model.safetensors") for each in (control, base))
    assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}
    matrices = [name for name, each in ours.items() if each.ndim == 2]
    assert not any(torch.equal(ours[name], theirs[name].float()) for name in matrices)
    assert (control / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert not (control / NAME).exists()
    again = randomise(base, tmp_path / "again", 1)
    assert torch.equal(load_file(again / "model.safetensors")[matrices[0]], ours[matrices[0]])


def test_a_claim_that_does_not_hold_is_shown_as_not_holding() -> None:
    section = Section("Test", "", [Claim("pigs fly", Estimate(-0.5, -0.6, -0.4)), Claim("maybe", Estimate(0, -1, 1))])
    assert "| pigs fly | -0.500 [-0.600, -0.400] | does not hold |" in to_markdown([section], {})
    assert '<td class="does-not-hold">does not hold' in to_html([section], {}, {})
    assert "| Test | 0 | 1 | 1 |" in to_markdown([section], {})


def test_training_that_spoils_the_model_is_told_so() -> None:
    base, least = checkpoint_of("miniature", "base"), replace(LEAST, count=60)
    good = measure(base, settings.MEDIA, least.count)
    bad = measure(checkpoint_of("miniature", "step-0200"), settings.MEDIA, least.count)
    # As if training had made the base what it was at its beginning.
    found = Findings(base=good, tuned=[bad], control=bad, control_tuned=[good])
    rising = [claim for claim in retrieval(found, least).claims if "rises" in claim.text]
    assert len(rising) == 6
    assert all(claim.verdict == "does not hold" for claim in rising)
    assert retrieval(found, least).claims[-1].verdict == "does not hold"
    aligned = [claim for claim in geometry(found).claims if "kernel" in claim.text]
    assert all(claim.verdict == "does not hold" for claim in aligned)


def test_the_best_rate_on_development_scenes_is_taken(tmp_path: Path, monkeypatch) -> None:
    tried = []

    def tune(self, name, base, method, seed, rate, **kwargs):
        tried.append((rate, kwargs["split"]))
        ranks = {1e-4: 5, 3e-4: 1, 1e-3: 3}[rate]
        return {"measured": {kind: {"text_to": [ranks]} for kind in settings.MEDIA}}

    monkeypatch.setattr(Experiments, "_tune", tune)
    assert Experiments(Steps(tmp_path), settings.FULL)._choose_rate("base", "full") == 3e-4
    assert tried == [(rate, "dev") for rate in settings.FULL.full_rates]


def test_bad_sizes_are_an_error(capsys) -> None:
    assert main(["reproduce", "--seeds", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
