"""`lco-embedding card`: the model card of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lco_embedding.cli.arguments import option, parse


@dataclass(frozen=True)
class CardArguments:
    """Write the model card of a checkpoint, README.md, from what lies in its folder.

    That is its configuration, training_record.json, evaluations (what `lco-embedding evaluate` wrote to evaluation/ or
    results/; scores of mteb also go into .eval_results/) and plots (analysis/*.png). In a card that is there, only what
    stands between the marks of generated text is written anew; the rest, and metadata that is not known, is kept.
    """

    folder: str = option("the checkpoint", positional=True)
    license: str | None = option("id of the license, such as apache-2.0; 'other' with --license-name", None)
    license_name: str | None = option("name of a license that the Hub does not know", None)
    license_link: str | None = option("where that license is", None)
    language: tuple[str, ...] = option("languages, such as en de", ())
    base_model: str | None = option("id of the model that it was made of; that of the record by default", None)
    dataset: tuple[str, ...] = option("ids of data sets that it was trained on, besides those of the record", ())
    name: str | None = option("title; that of the folder by default", None)
    repo_id: str | None = option("repository that the usage shows; the folder by default", None)
    user: str | None = option("user or organisation that measured the results of mteb", None)
    replace: bool = option("write the whole card anew, and keep nothing of the one that is there", False)


def main(argv: Sequence[str]) -> int:
    """Write the card.

    Returns:
        0.
    """
    arguments = parse(CardArguments, argv, "lco-embedding card")
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    from lco_embedding.model_cards import LCOModelCardData, write_card
    from lco_embedding.model_cards.card import README

    data = LCOModelCardData(
        license=arguments.license,
        license_name=arguments.license_name,
        license_link=arguments.license_link,
        language=list(arguments.language),
        base=arguments.base_model,
        model_name=arguments.name,
        model_id=arguments.repo_id,
        local_files_only=True,
    )
    data.datasets = list(arguments.dataset)
    if arguments.replace:
        (folder / README).unlink(missing_ok=True)
    for path in (write_card(folder, data), *_export_scores(folder, arguments.user)):
        print(f"written to {path}")
    return 0


def _export_scores(folder: Path, user: str | None) -> list[Path]:
    """Write the scores that mteb has left in a checkpoint as the Hub shows them."""
    from lco_embedding.checkpoints.evaluations import mteb_results
    from lco_embedding.evaluation import require_mteb

    found = mteb_results(folder)
    if not found:
        return []
    require_mteb()
    from mteb.results import TaskResult

    from lco_embedding.evaluation.benchmarks import TaskScore, export
    from lco_embedding.evaluation.tasks import find_tasks

    results = [TaskResult.from_disk(path) for path in found]
    (group,) = find_tasks([result.task_name for result in results])
    return export(list(map(TaskScore, group.tasks, results)), folder, user)
