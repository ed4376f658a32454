"""Check what is inside a built wheel, and that it works on its own.

    python scripts/check_wheel.py dist/lco_embedding-0.1.0-py3-none-any.whl

The wheel is unpacked into an empty folder and used from there, from another working folder, so that nothing of the
checkout can stand in for a file that the wheel lacks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = (
    "lco_embedding/py.typed",
    "lco_embedding/cli/__init__.py",
    "lco_embedding/model_cards/template.md",
    "lco_embedding/modules/omni_transformer.py",
    "lco_embedding/miniature/checkpoint/modules.json",
    "lco_embedding/miniature/base/model.safetensors",
    "lco_embedding/miniature/stages/step-0200/model.safetensors",
    "lco_embedding/miniature/world/words.ogg",
    "lco_embedding/training/launch/ddp.yaml",
    "lco_embedding/training/launch/zero2.json",
    "lco_embedding/training/recipes/text_only.yaml",
    "lco_embedding/miniature/checkpoint/model.safetensors",
    "lco_embedding/miniature/checkpoint/1_Pooling/config.json",
)

MAX_BYTES = 20_000_000

USE = """
import lco_embedding, sys
assert lco_embedding.__file__.startswith(sys.argv[1]), lco_embedding.__file__
from lco_embedding import LCOEmbedding
assert LCOEmbedding.miniature(device="cpu").encode("a").shape == (128,)
"""


def main(wheel: str) -> None:
    """Check one wheel.

    Raises:
        SystemExit: Something is missing, superfluous or does not work.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
        problems = [f"missing: {name}" for name in NEEDED if name not in names]
        problems += [
            f"superfluous: {name}"
            for name in names
            if not name.startswith("lco_embedding/") and ".dist-info/" not in name
        ]
        problems += [f"pickled: {name}" for name in names if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
        if "lco-embedding = lco_embedding.cli:main" not in entry_points:
            problems.append("no lco-embedding command")
        if not re.search(r"^License(-Expression)?: Apache-2.0$", archive.read(metadata).decode(), re.MULTILINE):
            problems.append("no licence in the metadata")
        size = Path(wheel).stat().st_size
        if size > MAX_BYTES:
            problems.append(f"{size / 1e6:.1f} MB are more than {MAX_BYTES / 1e6:.0f} MB")
        if problems:
            raise SystemExit("\n".join(problems))
        with tempfile.TemporaryDirectory() as folder:
            archive.extractall(folder)
            environment = {**os.environ, "PYTHONPATH": folder, "HF_HUB_OFFLINE": "1"}
            subprocess.run([sys.executable, "-c", USE, folder], cwd=folder, env=environment, check=True)
    print(f"{Path(wheel).name}: {len(names)} files, {size / 1e6:.1f} MB, works on its own")


if __name__ == "__main__":
    main(sys.argv[1])
