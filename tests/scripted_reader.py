"""A reader process for tests: `serve` with the scripted core on queue 5."""

from __future__ import annotations

import sys

from scripted_core import ScriptedCore

from dataplane.nfqueue import QueueConfig
from dataplane.reader import serve

if __name__ == "__main__":
    sys.exit(serve(lambda counters: (ScriptedCore(counters), [QueueConfig(queue=5)])))
