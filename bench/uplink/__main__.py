"""`python -m bench.uplink`."""

from __future__ import annotations

import sys

from bench.uplink.report import main

if __name__ == "__main__":
    sys.exit(main())
