"""What the notebooks share: source code on show, graphs of a computation, trained runs.

``core.lessons.answers`` answers the exercises. Needs IPython, which every notebook has.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from core.coco_utils import decode_captions, image_path
from core.decoding import beam_search
from core.gradient_check.source import without_docstring
from core.image_utils import load_image
from core.show.plots import BLUE, COLOURS, GREY, ORANGE

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ROOT / "notebooks" / "trained"  # small runs that came with the lessons

_STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 80,
    "figure.figsize": (7, 3.5),
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.bbox": "standard",
}


def style() -> None:
    """Sets how the figures of a lesson look, and how arrays are printed.

    Raises ImportError when the lesson is of one copy of the project and ``core`` of another.
    """
    _require_this_core(Path.cwd())
    plt.rcParams.update(_STYLE)
    np.set_printoptions(precision=4, suppress=True, linewidth=100)


def _require_this_core(folder: Path) -> None:
    """Raises ImportError when a project around ``folder`` has another ``core`` than this one."""
    for project in (folder, *folder.parents):
        if (project / "core" / "lessons").is_dir() and (project / "notebooks").is_dir():
            found = importlib.util.find_spec("core").submodule_search_locations[0]
            if not os.path.samefile(project / "core", found):
                raise ImportError(
                    f"this notebook is of {project}, but core of {Path(found).parent}; in the "
                    f"first folder: python -m pip install -e ., then restart the kernel"
                )
            return


def show_source(*functions: Callable, docstring: bool = True) -> None:
    """Shows the code of functions or classes as it stands in ``core``.

    Inputs:
    - functions: what to show; several stand below each other
    - docstring: whether to show their docstrings as well
    """
    from IPython.display import Markdown, display

    for function in functions:
        code = textwrap.dedent(inspect.getsource(function)).rstrip()
        if not docstring:
            code = without_docstring(code)
        name = Path(inspect.getsourcefile(function)).resolve()
        name = name.relative_to(ROOT).as_posix() if name.is_relative_to(ROOT) else name.name
        display(Markdown(f"`{name}`\n\n```python\n{code}\n```"))


def draw_graph(
    nodes: Mapping[str, tuple[float, float, str]],
    edges: Sequence[tuple],
    title: str = "",
    unit: float = 1.35,
) -> None:
    r"""Draws a computational graph: values forward along the arrows, gradients back.

    Inputs:
    - nodes: by name (column, row, text); rows count upwards. A text in ``$...$`` is a value and
      gets a filled box, any other an operation.
    - edges: (from, to, forward label, backward label); labels may be left out. Forward labels are
      blue and stand above the arrow (left of a steep one), backward labels orange and below.
    - title: above the picture
    - unit: inches between two columns

    ``$...$`` is mathematics, as everywhere in matplotlib.
    """
    columns, rows = zip(*[(x, y) for x, y, _ in nodes.values()], strict=True)
    size = ((max(columns) - min(columns) + 1.2) * unit, (max(rows) - min(rows) + 1.1) * 0.95)
    _, axes = plt.subplots(figsize=size)
    axes.set(xlim=(min(columns) - 0.6, max(columns) + 0.6), title=title)
    axes.set_ylim(min(rows) - 0.55, max(rows) + 0.55)
    axes.axis("off")
    drawn = {}
    for name, (x, y, text) in nodes.items():
        shape = "square" if "$" in text else "circle" if len(text) < 3 else "round"
        drawn[name] = axes.text(
            x, y, text, ha="center", va="center", fontsize=11, zorder=3,
            bbox={
                "boxstyle": f"{shape},pad=0.35", "edgecolor": GREY,
                "facecolor": "#EAF2F8" if shape == "square" else "white",
            },
        )  # fmt: skip
    for start, end, *labels in edges:
        (x0, y0), (x1, y1) = nodes[start][:2], nodes[end][:2]
        axes.annotate(
            "", xy=(x1, y1), xytext=(x0, y0), zorder=1,
            arrowprops={
                "arrowstyle": "-|>", "color": GREY, "shrinkA": 2, "shrinkB": 2,
                "patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch(),
            },
        )  # fmt: skip
        steep = abs(y1 - y0) > abs(x1 - x0)
        rise = np.sign((y1 - y0) * (x1 - x0))  # a label clears a slanted arrow on one side of it
        for label, colour, side in zip(labels, (BLUE, ORANGE), (1, -1), strict=False):
            left = side * (rise or 1) > 0  # of a slanted or a steep arrow
            axes.annotate(
                label, ((x0 + x1) / 2, (y0 + y1) / 2), color=colour, fontsize=10, zorder=2,
                ha=("right" if left else "left") if steep or rise else "center",
                va="center" if steep else ("bottom" if side > 0 else "top"),
                xytext=(-5 if left else 5, 0) if steep else (0, 3 * side),
                textcoords="offset points",
                bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
    plt.show()


def embedded_data(model: str = "lstm", num_samples: int | None = None) -> dict:
    """The embedded data as ``training.py --model MODEL --num_samples K`` reads it; made if absent.

    Inputs:
    - model: 'rnn' and 'lstm' read one vector an image, 'attention' and 'transformer' a grid
    - num_samples: captions to take, with their images; None takes all

    Returns the dict of ``core.coco_utils.load_coco_data``.
    """
    from core.runs.data import load_data
    from core.runs.settings import DEFAULTS

    return load_data(DEFAULTS | {"model": model, "num_samples": num_samples})


def load_trained(name: str):
    """A run that came with the lessons, so that none of them has to wait for a long training.

    Inputs:
    - name: 'rnn', 'lstm', 'attention' or 'transformer'; notebooks/README.md says how each was made

    Returns:
    - model: ready to caption
    - history: a dict for each epoch, the rows of its metrics.jsonl
    """
    from core.checkpoint import load_checkpoint
    from core.models import build_model

    checkpoint = load_checkpoint(TRAINED / name / "best.npz")
    model = build_model(
        checkpoint.model, checkpoint.config, checkpoint.idx_to_word, checkpoint.params
    )
    rows = (TRAINED / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return model, [json.loads(row) for row in rows]


def show_captions(model, data: dict, split: str, images: Sequence[int], columns: int = 3) -> None:
    """Pictures over what a model says of them, by beam search, and over one of their captions.

    Inputs:
    - model: a captioning model
    - data: from ``embedded_data``
    - split: 'train', 'val' or 'test'
    - images: which images of the split
    - columns: pictures in a row
    """
    images = np.asarray(images)
    captions, _ = beam_search(model, data[f"{split}_features"][images], max_length=20)
    captions = decode_captions(captions[:, 0], data["idx_to_word"])
    rows = -(-len(images) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, said in zip(axes.flat, images, captions, strict=False):
        one = np.flatnonzero(data[f"{split}_image_idxs"] == image)[0]
        reference = decode_captions(data[f"{split}_captions"][one], data["idx_to_word"])
        ax.imshow(load_image(image_path(data, split, image)))
        # "$" in a caption begins no mathematics
        title = "\n".join(textwrap.wrap(said, 36))
        ax.set_title(title, fontsize=9, color=BLUE, parse_math=False)
        ax.text(
            0.5, -0.03, "\n".join(textwrap.wrap(reference, 40)), fontsize=8, color=GREY,
            ha="center", va="top", transform=ax.transAxes, parse_math=False,
        )  # fmt: skip
    plt.show()
