"""`lco-embedding mine`: hard negatives for any-to-any rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lco_embedding.cli.arguments import ModelArguments, option, parse


def margin(text: str) -> float | None:
    """Read a margin: a number, or "none"."""
    return None if text.lower() == "none" else float(text)


@dataclass(frozen=True, kw_only=True)
class MineArguments(ModelArguments):
    """Write the rows of a data set with hard negatives: what a model takes for near to an anchor, but is no positive.

    Candidates are the positives and negatives of all rows, and the corpus. Of the nearest, those are taken that are no
    nearer to the anchor than the positive less the margin.
    """

    data: str = option("JSON lines of {anchor, positive}, or parquet or a folder of such columns", positional=True)
    output: str = option("JSON-lines file to write", positional=True)
    corpus: str | None = option("JSON lines of further candidates: texts, or objects with text, image_path, ...", None)
    num_negatives: int = option("negatives for each row", 1)
    output_format: str = option(
        "a row for each negative, or one row with negative_1, negative_2, ...",
        "triplet",
        choices=("triplet", "n-tuple"),
    )
    relative_margin: float | None = option(
        "leave out candidates nearer than the positive less this share of its similarity; 'none' leaves out none",
        0.05,
        type=margin,
    )
    range_min: int = option("pass over so many of the nearest candidates", 0)
    range_max: int | None = option("look at no more than so many of the nearest", None, type=int)
    sampling_strategy: str = option(
        "take the nearest of the candidates, or any of them", "top", choices=("top", "random")
    )
    seed: int = option("seed of the choice", 0)


def main(argv: Sequence[str]) -> int:
    """Mine.

    Returns:
        0; 1 if some rows are without negatives.
    """
    arguments = parse(MineArguments, argv, "lco-embedding mine")
    encode_options = {**arguments.encode_options(), "show_progress_bar": True}
    from lco_embedding.training.mining import mine_file

    mined = mine_file(
        arguments.load(),
        arguments.data,
        arguments.output,
        arguments.corpus,
        output_format=arguments.output_format,  # type: ignore[arg-type]
        num_negatives=arguments.num_negatives,
        relative_margin=arguments.relative_margin,
        range_min=arguments.range_min,
        range_max=arguments.range_max,
        sampling_strategy=arguments.sampling_strategy,
        seed=arguments.seed,
        **encode_options,
    )
    print(f"{mined.written} rows written to {arguments.output}; {mined.without} of {mined.rows} are without negatives")
    return int(mined.without > 0)
