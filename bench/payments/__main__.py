"""`python -m bench.payments`."""

from __future__ import annotations

import sys

from bench.payments.report import main

if __name__ == "__main__":
    sys.exit(main())
