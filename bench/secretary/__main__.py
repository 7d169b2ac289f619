"""`python -m bench.secretary`."""

from __future__ import annotations

import sys

from bench.secretary.report import main

if __name__ == "__main__":
    sys.exit(main())
