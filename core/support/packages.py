"""A package that the project needs and this Python lacks: one line, and no traceback.

Most often it is installed, in ``.venv``, and another Python was started.
"""

from __future__ import annotations

import os
import sys

from core.support.interrupts import is_command

NEEDED = ("numpy", "h5py", "matplotlib", "PIL", "threadpoolctl", "tqdm")  # as in pyproject.toml


def _in_a_line(kind, error, trace) -> None:
    """What Python calls last of all: here, while modules are loaded, no command catches errors."""
    if not issubclass(kind, ModuleNotFoundError) or error.name not in NEEDED:
        return sys.__excepthook__(kind, error, trace)
    program = os.path.basename(sys.argv[0])
    if program == "-m" and hasattr(sys, "orig_argv"):  # while Python looks for the module
        program = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    activate = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
    print(
        f"{program}: error: {sys.executable} has no {error.name}, which the project needs; after "
        f"make demo or make setup: {activate}; else: {sys.executable} -m pip install -e .",
        file=sys.stderr,
    )
    sys.exit(2)


if is_command() and sys.excepthook is sys.__excepthook__:
    sys.excepthook = _in_a_line
