"""`lco-embedding reproduce`: the paper in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lco_embedding.cli.arguments import option, parse


@dataclass(frozen=True)
class ReproduceArguments:
    """Try the claims of LCO-Emb on the miniature, and write a report of what holds and what does not.

    It runs on a CPU, offline. An interrupted run goes on where it was, if it is started again with the same output
    folder. The report is report.html, and report.md with plots.
    """

    output: str = option("where to write the report and keep what is done", "reproduction")
    quick: bool = option("a few minutes instead of an hour or more: fewer steps, scenes and seeds", False)
    seeds: int | None = option("seeds of each training instead of those of the size", None, type=int)
    steps: int | None = option("steps of contrastive training instead of those of the size", None, type=int)
    count: int | None = option("scenes of each kind to search instead of those of the size", None, type=int)
    document_steps: int | None = option("steps of reading documents instead of those of the size", None, type=int)


def main(argv: Sequence[str]) -> int:
    """Run the experiments and write the report.

    Returns:
        0, whatever holds.
    """
    arguments = parse(ReproduceArguments, argv, "lco-embedding reproduce")
    given = {"seeds": arguments.seeds, "steps": arguments.steps, "count": arguments.count}
    given["document_steps"] = arguments.document_steps
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if any(value < 1 for value in changed.values()):
        raise ValueError(f"{', '.join(changed)} must be at least 1")
    from transformers.utils import logging

    from lco_embedding.analysis.plots import new_figure
    from lco_embedding.miniature.reproduction.experiments import Experiments
    from lco_embedding.miniature.reproduction.report import write_report
    from lco_embedding.miniature.reproduction.sections import sections
    from lco_embedding.miniature.reproduction.settings import FULL, QUICK
    from lco_embedding.miniature.reproduction.steps import Steps

    new_figure()  # what plots need is missed before the work, not after it
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    settings = replace(QUICK if arguments.quick else FULL, **changed)
    if "seeds" in changed:
        settings = replace(settings, stage_seeds=min(settings.stage_seeds, settings.seeds))
    output = Path(arguments.output)
    steps = Steps(output / "steps", tell=lambda line: print(line, flush=True))
    found = Experiments(steps, settings).run()
    parts = sections(found, settings)
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    command = f"lco-embedding reproduce{' --quick' if arguments.quick else ''}{options}"
    _, page = write_report(output, parts, settings, command, found.seconds)
    for section in parts:
        print(f"\n{section.title}")
        for claim in section.claims:
            print(f"  {claim.verdict:<14} {claim.text}: {claim.estimate}")
    print(f"\nwritten to {page}")
    return 0
