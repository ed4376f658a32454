"""What importing the package costs; import-linter holds its layers (`setup.cfg`)."""

from __future__ import annotations

import subprocess
import sys


def test_the_package_and_its_help_load_no_torch() -> None:
    code = "import sys, lco_embedding, lco_embedding.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
