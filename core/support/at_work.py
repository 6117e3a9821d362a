"""Which process of this machine is at work, and since when: whose files are those of nobody?"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def is_at_work(process: int, started: str | None = None) -> bool:
    """Whether a process runs: by its number, and where it is known by when it started."""
    if os.name == "nt":  # where ``os.kill`` would end it
        import ctypes

        kernel = ctypes.windll.kernel32
        handle, code = kernel.OpenProcess(0x1000, False, process), ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return bool(handle) and code.value == 259  # STILL_ACTIVE
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is of another user
    now = start_of(process)
    return now != "ended" and (None in (started, now) or started == now)


def start_of(process: int) -> str | None:
    """When a process started, as Linux counts; 'ended' when it waits to be buried; else None."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else fields[18]
    return None
