"""`python -m bench.hostplane`."""

from __future__ import annotations

import sys

from bench.hostplane.report import main

if __name__ == "__main__":
    sys.exit(main())
