"""What an evaluation found, as a flat file: a model card reads it, and so can anyone."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from lco_embedding._version import __version__
from lco_embedding.atomic_writes import write_text

LIBRARIES = ("torch", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class Report:
    """Figures of one evaluation.

    Args:
        name: What was evaluated on: a benchmark, or a file.
        model: Name of the model.
        revision: Its commit, or a hash of its weights.
        figures: By name; shares from 0 to 1.
        counts: How much was evaluated, by name.
        intervals: Bounds of 95% of figures, by the same names; of those that have some.
        errors: What could not be evaluated, and why.
        libraries: Further packages whose versions matter.
    """

    name: str
    model: str
    revision: str
    figures: Mapping[str, float]
    counts: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    errors: Sequence[str] = ()
    libraries: Sequence[str] = ()

    def write(self, folder: str | Path, command: str) -> Path:
        """Write the report to a folder as JSON.

        Args:
            folder: Made if it is not there.
            command: What was run.

        Returns:
            The file.
        """
        versions = {name: version(name) for name in (*LIBRARIES, *self.libraries)}
        content = {
            "name": self.name,
            "model": self.model,
            "revision": self.revision,
            "command": command,
            "figures": dict(self.figures),
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "counts": dict(self.counts),
            "errors": list(self.errors),
            "versions": {"lco-embedding": __version__, "python": platform.python_version(), **versions},
        }
        path = Path(folder, re.sub(r"[^\w.-]+", "_", self.name).strip("_") + ".json")
        write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        return path
