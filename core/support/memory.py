"""How much memory there is still to be had."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# Which control groups a process is in, and where they are.
_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that this process can still get, as far as the system says; None where it does not.

    The least of what the machine has left, what its container has left, and what ``ulimit`` allows.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    found += _left_in_containers()
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if limit != resource.RLIM_INFINITY:
            found.append(max(0, limit - used))
    if not found:
        with suppress(AttributeError, OSError, ValueError):  # all that the machine has
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _left_in_containers() -> list[int]:
    """What the control groups of this process leave, those above it included; versions 1 and 2."""
    left, (groups, root) = [], _GROUPS
    with suppress(OSError):
        for entry in groups.read_text().splitlines():
            _, controllers, group = entry.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            names, total = ("memory.max", "memory.current"), ""
            if controllers:
                names, total = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"
            # In a container the path may be that of the outside: then only the root is there.
            base = root / controllers
            folder = base / group.lstrip("/")
            for each in (folder, *folder.parents):
                with suppress(OSError, ValueError, KeyError):  # 'max': no limit
                    limit, used = (int((each / name).read_text()) for name in names)
                    stat = (each / "memory.stat").read_text().split()
                    of = dict(zip(stat[::2], stat[1::2], strict=True))
                    # What holds copies of files is given back when it is wanted.
                    files = sum(int(of[f"{total}{kind}_file"]) for kind in ("active", "inactive"))
                    left.append(limit - used + files)
                if each == base:
                    break
    return left
