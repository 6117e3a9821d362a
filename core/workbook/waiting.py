"""The process that waits for the next save, with everything loaded but the learner's file.

It needs no PyTorch: it calls the functions, and the process that started it judges what they
return. The order comes as a file of JSON: what ``core.gradient_check.apart.answer`` takes.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the process that started it
sys.modules["torch"] = None  # so that importing the checks does not load it ...
from core.gradient_check.apart import answer  # noqa: E402
from core.support.at_work import is_at_work  # noqa: E402

del sys.modules["torch"]  # ... and a learner's file still can

_PAUSE = 0.01  # seconds between two looks


def wait(order: Path, parent: int) -> None:
    """Waits for the order, and does it; ends when the process that started this one has."""
    while not order.exists():
        if not is_at_work(parent):
            return
        time.sleep(_PAUSE)
    answer(*json.loads(order.read_text(encoding="utf-8")))


if __name__ == "__main__":
    wait(Path(sys.argv[1]), int(sys.argv[2]))
