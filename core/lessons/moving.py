"""A picture with sliders: every position is drawn beforehand, so nothing runs when they move."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt

_LARGEST = 60  # pictures of one figure: a notebook has to stay small

_PAGE = """\
<div id="{id}" style="max-width: 44em">
<img src="data:image/png;base64,{first}" alt="{alt}" style="max-width: 100%">
{sliders}
<script>
(() => {{
  const box = document.getElementById("{id}");
  const pictures = [{pictures}];
  const names = {names};
  const sliders = [...box.querySelectorAll("input")];
  const move = () => {{
    let place = 0;
    sliders.forEach((slider, i) => {{
      place = place * names[i].length + Number(slider.value);
      slider.nextElementSibling.textContent = names[i][Number(slider.value)];
    }});
    box.querySelector("img").src = "data:image/png;base64," + pictures[place];
  }};
  sliders.forEach((slider) => slider.addEventListener("input", move));
}})();
</script>
</div>"""
_SLIDER = (
    '<label style="display: block">{name} '
    '<input type="range" min="0" max="{last}" value="{start}" style="width: 50%">'
    " <output>{value}</output></label>"
)


def movable(draw: Callable, start: Mapping[str, Any], **choices: Sequence) -> None:
    """Shows a figure with a slider for each of its parameters.

    Inputs:
    - draw: called with one value of each choice, in their order; makes one figure with matplotlib
    - start: name -> value, which is shown first, and alone where nothing can move
    - choices: name -> the values of a slider, at most 60 combinations in all

    Raises ValueError for too many combinations, and for a start that is no choice.
    """
    from IPython.display import display

    combinations = list(itertools.product(*choices.values()))
    if len(combinations) > _LARGEST:
        raise ValueError(f"{len(combinations)} pictures, at most {_LARGEST} keep a lesson small")
    first = tuple(start[name] for name in choices)
    if first not in combinations:
        raise ValueError(f"start: {dict(start)} is not among the choices")
    pictures = [_picture(draw, values) for values in combinations]
    shown = pictures[combinations.index(first)]
    page = _PAGE.format(
        # Of the contents, so that the same lesson has the same output on every run.
        id="movable-" + hashlib.sha256("".join(pictures).encode()).hexdigest()[:12],
        first=shown,
        alt=escape(", ".join(f"{name} {value}" for name, value in start.items())),
        sliders="\n".join(
            _SLIDER.format(
                name=escape(name.replace("_", " ")), last=len(values) - 1,
                start=list(values).index(start[name]), value=escape(str(start[name])),
            )
            for name, values in choices.items()
        ),
        pictures=", ".join(f'"{picture}"' for picture in pictures),
        names=[[str(value) for value in values] for values in choices.values()],
    )  # fmt: skip
    data = {"text/html": page, "image/png": shown, "text/plain": "<a picture with sliders>"}
    display(data, raw=True)


def _picture(draw: Callable, values: tuple) -> str:
    """One position as a PNG, in base64. It keeps its size: sliders must not make it jump."""
    before = set(plt.get_fignums())
    draw(*values)
    figure = plt.gcf()
    file = io.BytesIO()
    # Without the name and version of matplotlib, which are in the file otherwise.
    figure.savefig(file, format="png", metadata={"Software": None})
    for number in set(plt.get_fignums()) - before:
        plt.close(number)
    return base64.b64encode(file.getvalue()).decode()
