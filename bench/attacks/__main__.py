"""`python -m bench.attacks`."""

from __future__ import annotations

import sys

from bench.attacks import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
