"""`python -m lco_embedding.cli`, which launchers such as torchrun call."""

from __future__ import annotations

import sys

from lco_embedding.cli import main

sys.exit(main())
