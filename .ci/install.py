"""``pip install`` that says at its end how much it fetched: .venv/bin/python .ci/install.py ...

The lines that pip prints, the sizes in them added up.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

# Downloading numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl (16.9 MB)
FETCHED = re.compile(
    r"^ *(?P<how>Downloading|Using cached) (?P<file>\S+\.(?:whl|tar\.gz|zip))"
    r" \((?P<size>[\d.]+) (?P<unit>bytes|kB|MB|GB)\)"
)
# Processing /opt/wheels/tqdm-4.70.1-py3-none-any.whl (from caption-from-scratch)
ON_DISK = re.compile(r"^ *Processing (?P<file>\S+\.(?:whl|tar\.gz|zip))(?: |$)")
MEGABYTES = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


def summary(lines: list[str]) -> str:
    """What pip said that it fetched, in a line."""
    sizes = {"Downloading": [], "Using cached": []}
    for found in filter(None, map(FETCHED.match, lines)):
        sizes[found["how"]].append(float(found["size"]) * MEGABYTES[found["unit"]])
    new, cached = sizes.values()
    parts = [f"{_packages(len(new))}, {sum(new):.1f} MB, downloaded"]
    if cached:
        parts.append(f"{_packages(len(cached))}, {sum(cached):.1f} MB, from pip's cache")
    if on_disk := [found["file"] for found in filter(None, map(ON_DISK.match, lines))]:
        size = sum(os.path.getsize(file) / 1e6 for file in on_disk if os.path.isfile(file))
        parts.append(f"{_packages(len(on_disk))}, {size:.1f} MB, from this disk")
    return "; ".join(parts)


def _packages(count: int) -> str:
    return f"{count} package{'s' * (count != 1)}"


def main(arguments: list[str]) -> int:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    lines = []
    with subprocess.Popen(pip, stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as run:
        for line in run.stdout:
            lines.append(line.rstrip())
            if FETCHED.match(line) or ON_DISK.match(line) or line.startswith("Successfully"):
                print(line.rstrip(), flush=True)
    if not run.returncode:
        print(summary(lines))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
