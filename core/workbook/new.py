"""``new``: the file of a learner, with every function of the road still empty."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from core.support.command_line import quoted
from core.support.files import write_text
from core.workbook.road import ROAD, Chapter

_BLANK = Path(__file__).with_name("blank.py")
_RULE = "# " + "-" * 93
# What chapters use of earlier ones: ours take their place in a file that leaves those out.
_IMPORTS = {
    "attention": {
        "words": "core.layers import temporal_affine_backward, temporal_affine_forward",
        "lstm": "core.rnn_layers import lstm_step_backward, lstm_step_forward",
    },
    "heads": {"words": "core.layers import temporal_affine_backward, temporal_affine_forward"},
    "transformer": {
        "words": "core.layers import temporal_affine_backward, temporal_affine_forward",
        "heads": "core.transformer_layers import multi_head_attention_backward, "
        "multi_head_attention_forward",
    },
}
_HEAD = """\
# My layers: every function of a captioner, to be written from top to bottom.
#
#     python -m core.workbook watch {file}
#
# answers at every save, with hints; and
#
#     python -m core.workbook check {file}
#
# says once how far you are. Whatever you have written trains a captioner, in the place of ours:
#
#     python training.py --model {model} --engine plain --num_samples 50 --impl {file}
#
# - A forward returns its outputs and a cache: whatever your backward needs.
# - A backward takes the gradient of the loss with respect to each output, then the cache. It
#   returns one gradient per array argument of the forward, in that order; that of w is dw.
# - No function writes into what it is given. float32 in, float32 out, and float64 in, float64 out:
#   a new array is np.zeros(shape, dtype=x.dtype).
# - Functions of your own (a sigmoid, a softmax) may be anywhere in this file; use NumPy alone.
# - A lesson derives a gradient, then shows our code. Write yours from the derivation, before that.
"""


def write_workbook(path: str | Path, chapters: Sequence[Chapter] = ROAD) -> None:
    """Writes the file with these chapters.

    Raises FileExistsError when there is something at ``path``, ValueError for a name that Python
    could not import, or that would hide another module.
    """
    path = Path(path)
    if path.suffix != ".py" or not str(path).isprintable():
        raise ValueError(f"{path}: found {path.name!r}, expected a file name that ends in .py")
    if os.path.lexists(path):
        raise FileExistsError(
            f"{path}: is there already and is not overwritten; remove it, or choose another name"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first")
    if path.stem in sys.stdlib_module_names or _is_module(path.stem):
        raise ValueError(
            f"{path}: would hide the module {path.stem}; choose another name, as my_layers.py"
        )
    write_text(path, workbook(path, chapters))


def workbook(path: str | Path, chapters: Sequence[Chapter] = ROAD) -> str:
    """The text of the file."""
    _, *parts = re.split(r"^# == (\w+)\n", _BLANK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    written = {chapter.name for chapter in chapters}
    ours = sorted(
        {
            f"from {imported}"
            for name in written
            for of, imported in _IMPORTS.get(name, {}).items()
            if of not in written
        }
    )
    text = _HEAD.format(file=quoted(path), model=chapters[0].models[0])
    text += "\nfrom __future__ import annotations\n\nimport numpy as np\n"
    if ours:
        text += "\n# Of chapters that are not in this file: ours.\n" + "\n".join(ours) + "\n"
    text += "\nArray = np.ndarray\n"
    for chapter in chapters:
        title = f"# Lesson {chapter.number}: {chapter.title}        notebooks/{chapter.lesson}"
        text += f"\n\n{_RULE}\n{title}\n{_RULE}\n{texts[chapter.name].rstrip()}\n"
    return text


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
