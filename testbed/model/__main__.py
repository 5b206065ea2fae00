"""`python -m testbed.model`."""

from __future__ import annotations

import sys

from .process.main import main

sys.exit(main(sys.argv[1:]))
