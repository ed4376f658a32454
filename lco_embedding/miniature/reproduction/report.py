"""The report: Markdown with plots beside it, and one HTML file that holds everything."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lco_embedding._version import __version__
from lco_embedding.atomic_writes import write_text
from lco_embedding.miniature.reproduction.claims import Claim
from lco_embedding.miniature.reproduction.sections import Section, Table
from lco_embedding.miniature.reproduction.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "LCO-Emb in miniature"
LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft", "numpy")
DPI = 100

INTRODUCTION = (
    "The claims of LCO-Emb (arXiv 2510.11693), tried on the miniature that ships in the package: a Qwen2.5-Omni "
    "thinker of 1.4 M parameters in a procedural world. What holds here need not hold for real models, and what does "
    "not may hold there. "
    "A claim holds if the whole 95% bootstrap interval is on its side, does not hold if the whole is on the other, "
    "and is not decided if the interval reaches over both."
)

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:.85em;margin:1em 0;display:block;overflow-x:auto}"
    "td,th{border:1px solid #ccc;padding:.25em .5em;text-align:left}"
    ".holds{color:#166534}.does-not-hold{color:#b91c1c;font-weight:600}.not-decided{color:#92400e}img{max-width:100%}"
)


def write_report(
    folder: str | Path, sections: Sequence[Section], settings: Settings, command: str, seconds: float
) -> tuple[Path, Path]:
    """Write `report.md` with `plots/`, and `report.html`.

    Args:
        folder: Where to write.
        sections: What the report tells.
        settings: Of the run.
        command: What was run.
        seconds: What its steps took.

    Returns:
        The Markdown and the HTML file.
    """
    folder = Path(folder)
    plots = {name: _png(figure) for section in sections for name, figure in section.figures.items()}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, data in plots.items():
        (folder / "plots" / f"{name}.png").write_bytes(data)
    made = _made_with(settings, command, seconds)
    markdown, page = folder / "report.md", folder / "report.html"
    write_text(markdown, to_markdown(sections, made))
    write_text(page, to_html(sections, made, plots))
    return markdown, page


def to_markdown(sections: Sequence[Section], made: Mapping[str, str]) -> str:
    """Write the report in Markdown; plots are taken to lie in `plots/`."""
    lines = [f"# {TITLE}", "", INTRODUCTION, "", *_markdown_table(_summary(sections)), ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text, "", *_markdown_table(_claims(section.claims)), ""]
        for caption, table in section.tables.items():
            lines += [f"**{caption}**", "", *_markdown_table(table), ""]
        lines += [f"![{name}](plots/{name}.png)\n" for name in section.figures]
    lines += ["## How it was made", "", *(f"- {name}: {value}" for name, value in made.items())]
    return "\n".join(lines) + "\n"


def to_html(sections: Sequence[Section], made: Mapping[str, str], plots: Mapping[str, bytes]) -> str:
    """Write the report as one HTML file that needs no other."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{TITLE}</title><style>{STYLE}</style>",
        f"<h1>{TITLE}</h1><p>{html.escape(INTRODUCTION)}</p>{_html_table(_summary(sections))}",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>")
        parts.append(_html_table(_claims(section.claims)))
        for caption, table in section.tables.items():
            parts.append(f"<h3>{html.escape(caption)}</h3>{_html_table(table)}")
        for name in section.figures:
            data = base64.b64encode(plots[name]).decode()
            parts.append(f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></p>')
    rows = "".join(f"<li>{html.escape(name)}: {html.escape(value)}" for name, value in made.items())
    return "\n".join([*parts, f"<h2>How it was made</h2><ul>{rows}</ul></html>"]) + "\n"


def _summary(sections: Sequence[Section]) -> Table:
    verdicts = ("holds", "does not hold", "not decided")
    table = [["claims", *verdicts]]
    for section in sections:
        counts = [sum(claim.verdict == verdict for claim in section.claims) for verdict in verdicts]
        table.append([section.title, *map(str, counts)])
    return table


def _claims(claims: Sequence[Claim]) -> Table:
    return [["claim", "estimate", "verdict"], *([each.text, str(each.estimate), each.verdict] for each in claims)]


def _made_with(settings: Settings, command: str, seconds: float) -> dict[str, str]:
    versions = [f"lco-embedding {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in LIBRARIES]
    return {
        "command": command,
        "versions": ", ".join(versions),
        "settings": ", ".join(f"{name} {value}" for name, value in asdict(settings).items()),
        "time": f"{seconds / 60:.0f} minutes in training and measuring",
    }


def _markdown_table(table: Table) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]


def _html_table(table: Table) -> str:
    head, *rows = table
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}" for cell in head)]
    for row in rows:
        cells = []
        for cell in row:
            known = cell in ("holds", "does not hold", "not decided")
            kind = f' class="{cell.replace(" ", "-")}"' if known else ""
            cells.append(f"<td{kind}>{html.escape(cell)}")
        lines.append("<tr>" + "".join(cells))
    return "".join(lines) + "</table>"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
