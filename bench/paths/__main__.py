"""`python -m bench.paths`."""

from __future__ import annotations

import sys

from bench.paths.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
