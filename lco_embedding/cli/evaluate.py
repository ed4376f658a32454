"""`lco-embedding evaluate`: benchmarks of mteb, and retrieval on one's own pairs."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lco_embedding.cli.arguments import ModelArguments, option, parse
from lco_embedding.data.json_lines import names_of

if TYPE_CHECKING:
    from lco_embedding.evaluation.benchmarks import TaskScore
    from lco_embedding.evaluation.mteb_encoder import MtebEncoder
    from lco_embedding.evaluation.pairs import PairRetrieval
    from lco_embedding.evaluation.tasks import TaskGroup
    from lco_embedding.model import LCOEmbedding

ROWS = 64
"""Items in a batch of a task, at most, unless told: without it mteb says 32."""


@dataclass(frozen=True)
class EvaluateArguments(ModelArguments):
    """Judge a model: by benchmarks of mteb, by how well it finds the partners of your own pairs, or both.

    Each task's result is kept in the output folder as mteb keeps it, so that a run that was interrupted goes on where
    it stopped; so is a summary of each benchmark and each file of pairs, which a model card can show. What fails, a
    task or a row, is named and costs nothing else; the exit status is then 1.
    """

    tasks: tuple[str, ...] = option(
        "mieb-lite, maeb, mveb, vidore, vidore-v1, -v2, -v3, seadoc, or names of mteb's benchmarks and tasks", ()
    )
    data: tuple[str, ...] = option(
        'JSON-lines files of pairs, {"anchor": ..., "positive": ...}, as for `lco-embedding train`', ()
    )
    output: str = option("folder for the results", "results")
    export: str | None = option(
        "folder of a checkpoint in which to write the scores of tasks as the Hub shows them (.eval_results)", None
    )
    processing_kwargs: str | None = option(
        'settings of the processing as JSON, such as \'{"image": {"max_pixels": 1003520}}\'', None
    )
    bootstrap: int = option("how often the queries are resampled for the intervals of --data", 1000)
    seed: int = option("seed of the resampling", 0)

    def load_kwargs(self) -> dict[str, Any]:
        """Return the arguments for `LCOEmbedding` beyond the model, its revision and device.

        Raises:
            ValueError: The settings are not a JSON object.
        """
        kwargs: dict[str, Any] = {}
        if self.dtype:
            kwargs["model_kwargs"] = {"dtype": self.dtype}
        try:
            settings = json.loads(self.processing_kwargs or "{}")
        except ValueError as error:
            raise ValueError(f"--processing-kwargs is not JSON ({error}): {self.processing_kwargs}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"--processing-kwargs must be a JSON object, got {self.processing_kwargs}")
        if self.load_audio_from_video:
            settings.setdefault("video", {})["load_audio_from_video"] = True
        return {**kwargs, "processing_kwargs": settings} if settings else kwargs


def main(argv: Sequence[str]) -> int:
    """Evaluate, print tables, and write the figures.

    Returns:
        0, or 1 if some tasks failed or some rows can't be used.
    """
    arguments = parse(EvaluateArguments, argv, "lco-embedding evaluate")
    if not arguments.tasks and not arguments.data:
        raise ValueError("nothing to evaluate: name --tasks, --data or both")
    names_of(arguments.data)  # so that a file given twice is told before a model is loaded
    missing = [path for path in arguments.data if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"there is no file {', '.join(missing)}")
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):
        raise ValueError(f"--output {output} can't be written")
    kwargs = arguments.load_kwargs()
    options = {**arguments.encode_options(), "show_progress_bar": sys.stderr.isatty()}
    options.pop("load_audio_from_video", None)  # one of the settings, so that it is filed with the results
    command = _command(argv)
    if not arguments.tasks:
        return int(_evaluate_data(arguments, _load(arguments, kwargs), options, command))
    from lco_embedding.evaluation import require_mteb

    require_mteb()
    from lco_embedding.evaluation.mteb_encoder import MtebEncoder
    from lco_embedding.evaluation.tasks import find_tasks

    # What is mistyped is to be told before a model is loaded.
    groups = find_tasks(arguments.tasks)
    if arguments.model == "miniature":
        encoder = MtebEncoder(_load(arguments, kwargs), name="lco-embedding/miniature")
    else:
        encoder = MtebEncoder(arguments.model, arguments.revision, device=arguments.device, **kwargs)
    failed = _evaluate_tasks(arguments, encoder, groups, options, command)
    failed |= _evaluate_data(arguments, encoder.model, options, command)
    return int(failed)


def _load(arguments: EvaluateArguments, kwargs: dict[str, Any]) -> LCOEmbedding:
    model = arguments.load()
    if "processing_kwargs" in kwargs:
        model.omni.processing_kwargs = model.omni.reader(kwargs["processing_kwargs"]).settings
    return model


def _evaluate_tasks(
    arguments: EvaluateArguments,
    encoder: MtebEncoder,
    groups: Sequence[TaskGroup],
    options: dict[str, Any],
    command: str,
) -> bool:
    """Run benchmarks; return whether some task failed."""
    from mteb.cache import ResultCache

    from lco_embedding.evaluation.benchmarks import EXPORTED, by_category, export, mean, run
    from lco_embedding.evaluation.report import Report

    # It logs each failure with its own words, which are printed here once.
    logging.getLogger("mteb.evaluate").setLevel(logging.CRITICAL)
    meta = encoder.mteb_model_meta
    cache = ResultCache(arguments.output)
    options = {"batch_size": ROWS, **options}
    failed = False
    for group in groups:
        scores = []
        for number, score in enumerate(run(encoder, group, cache, options), start=1):
            told = "failed" if score.score is None else f"{100 * score.score:.1f}"
            print(f"[{number}/{len(group.tasks)}] {score.name}: {score.error or told}", file=sys.stderr)
            scores.append(score)
        print(format_scores(group.title, f"{meta.name} at {meta.revision[:12]}", scores))
        means = {name: mean(each) for name, each in by_category(scores).items()}
        figures = {**{score.name: score.score for score in scores}, **means, "mean": mean(scores)}
        report = Report(
            name=group.name,
            model=meta.name,
            revision=meta.revision,
            figures={name: value for name, value in figures.items() if value is not None},
            counts={"tasks": len(scores), "scored": sum(score.score is not None for score in scores)},
            errors=[f"{score.name}: {score.error}" for score in scores if score.error],
            libraries=("mteb", "datasets"),
        )
        print(f"written to {report.write(arguments.output, command)}\n")
        if arguments.export:
            files = export(scores, arguments.export)
            print(f"{len(files)} file(s) for the Hub written to {Path(arguments.export, EXPORTED)}\n")
        failed |= any(score.error for score in scores)
    return failed


def _evaluate_data(arguments: EvaluateArguments, model: LCOEmbedding, options: dict[str, Any], command: str) -> bool:
    """Evaluate files of pairs; return whether some row can't be used."""
    from lco_embedding.evaluation.fingerprint import fingerprint
    from lco_embedding.evaluation.pairs import evaluate_pairs
    from lco_embedding.evaluation.report import Report

    failed = False
    for path, name in zip(arguments.data, names_of(arguments.data), strict=True):
        try:
            result = evaluate_pairs(model, path, arguments.bootstrap, arguments.seed, **options)
        except ValueError as error:  # of one file, which is not to cost the others
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
            continue
        for line in result.errors:
            print(line, file=sys.stderr)
        print(format_pairs(path, result))
        counts = {"rows": result.rows, "left out": len(result.errors)}
        for way, each in result.directions.items():
            counts |= {f"{way}: queries": each.queries, f"{way}: documents": each.documents}
        report = Report(
            name=name,
            model=Path(arguments.model).name if Path(arguments.model).is_dir() else arguments.model,
            revision=fingerprint(model),
            figures=result.figures(),
            intervals=result.intervals(),
            counts=counts,
            errors=result.errors,
        )
        print(f"written to {report.write(arguments.output, command)}\n")
        failed |= bool(result.errors)
    return failed


def format_scores(title: str, model: str, scores: Sequence[TaskScore]) -> str:
    """Lay out scores in percent by category, and their mean."""
    from lco_embedding.evaluation.benchmarks import by_category, mean

    def line(name: str, count: str, value: float | None, note: str = "") -> str:
        shown = "-" if value is None else f"{100 * value:.1f}"
        return f"{name:<46}{count:>8}{shown:>8}  {note}".rstrip()

    lines = [f"{title}: {model}, in percent"]
    for category, group in by_category(scores).items():
        done = sum(score.score is not None for score in group)
        lines.append(line(category, f"{done}/{len(group)}", mean(group)))
        lines += [line(f"  {score.name}", "", score.score, "failed" if score.error else "") for score in group]
    done = sum(score.score is not None for score in scores)
    note = "not all tasks" if done < len(scores) else ""
    lines.append(line("mean over tasks", f"{done}/{len(scores)}", mean(scores), note))
    return "\n".join(lines)


def format_pairs(path: str, result: PairRetrieval) -> str:
    """Lay out the figures of each direction, in percent with their intervals."""
    left_out = f", {len(result.errors)} left out" if result.errors else ""
    names = [*(f"R@{k}" for k in next(iter(result.directions.values())).recall), "MRR", "nDCG@10"]
    width = max(map(len, result.directions)) + 2
    lines = [f"{path}: {result.rows} rows{left_out}; in percent, with intervals of 95%"]
    lines.append(f"{'':<{width}}{'queries':>8}{'documents':>11}" + "".join(f"{name:>22}" for name in names))
    for direction, each in result.directions.items():
        estimates = [*each.recall.values(), each.mrr, each.ndcg[10]]
        shown = [f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in estimates]
        counts = f"{each.queries:>8}{each.documents:>11}"
        lines.append(f"{direction:<{width}}{counts}" + "".join(f"{text:>22}" for text in shown))
    return "\n".join(lines)


def _command(argv: Sequence[str]) -> str:
    """Return the command as it is filed: files by their names, as where they lie is nobody else's business."""
    words = [Path(word).name if Path(word).is_absolute() or Path(word).exists() else word for word in argv]
    return shlex.join(["lco-embedding", "evaluate", *words])
