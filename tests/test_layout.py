"""Dependencies point one way: the rooms of the model import nothing that is built upon them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1] / "lco_embedding"
BUILT_UPON = (
    "lco_embedding.training",
    "lco_embedding.evaluation",
    "lco_embedding.cli",
    "lco_embedding.model",
    "lco_embedding.data.json_lines",
    "lco_embedding.data.sides",
)


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def is_within(name: str, modules: tuple[str, ...]) -> bool:
    """Tell whether a module is one of some, or in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("modules", (*BUILT_UPON, "lco_embedding.miniature")),
        ("miniature/world", ("lco_embedding.training", "lco_embedding.model", "lco_embedding.cli")),
        ("evaluation", ("lco_embedding.training", "lco_embedding.miniature", "lco_embedding.cli")),
        ("analysis", ("lco_embedding.miniature", "lco_embedding.miniature.reproduction", "lco_embedding.cli")),
        ("reproduction", ("lco_embedding.cli",)),
        ("training", ("lco_embedding.evaluation", "lco_embedding.cli", "lco_embedding.hub")),
        ("hub", ("lco_embedding.training", "lco_embedding.evaluation", "lco_embedding.cli")),
        (
            "model_cards",
            (*BUILT_UPON, "lco_embedding.hub", "lco_embedding.miniature"),
        ),
    ],
)
def test_dependencies_point_one_way(folder: str, forbidden: tuple[str, ...]) -> None:
    files = sorted((HOME / folder).rglob("*.py"))
    assert files
    wrong = [(path.name, name) for path in files for name in imports(path) if is_within(name, forbidden)]
    assert not wrong


def test_the_package_and_its_help_load_no_torch() -> None:
    code = "import sys, lco_embedding, lco_embedding.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
