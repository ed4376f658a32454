"""Steps whose results are kept, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lco_embedding._version import __version__
from lco_embedding.atomic_writes import write_text


class Steps:
    """Runs steps, or reads what they gave before under the same settings and version.

    Args:
        folder: Where the results are kept, one JSON file a step.
        tell: Called with a line about each step.
    """

    def __init__(self, folder: str | Path, tell: Callable[[str], object] = lambda line: None) -> None:
        self.folder, self.tell = Path(folder), tell
        self.seconds = 0.0
        self._counted: set[Path] = set()

    def run(self, name: str, settings: Mapping[str, Any], function: Callable[[], Any]) -> Any:
        """Return the result of a step.

        Args:
            name: What it is, as a file name.
            settings: All that its result depends on, as JSON takes it.
            function: Does the work; its result must be JSON.
        """
        text = json.dumps({"settings": dict(settings), "version": __version__}, sort_keys=True)
        path = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        if path.is_file():
            entry = json.loads(path.read_text(encoding="utf8"))
            self.tell(f"{name}: done before")
        else:
            start = time.perf_counter()
            result = function()
            entry = {"seconds": round(time.perf_counter() - start, 1), "settings": dict(settings), "result": result}
            write_text(path, json.dumps(entry) + "\n")
            entry = json.loads(path.read_text(encoding="utf8"))
            self.tell(f"{name}: {entry['seconds']:.0f} s")
        if path not in self._counted:
            self.seconds += entry["seconds"]
            self._counted.add(path)
        return entry["result"]
