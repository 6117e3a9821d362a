"""What the notebooks share: what they show, and what answers their exercises."""

from core.lessons.answers import Answer, compare, confirm
from core.lessons.showing import (
    ROOT,
    TRAINED,
    draw_graph,
    embedded_data,
    load_trained,
    show_captions,
    show_source,
    style,
)
from core.show.plots import BLUE, GREY, ORANGE

__all__ = [
    "BLUE",
    "GREY",
    "ORANGE",
    "ROOT",
    "TRAINED",
    "Answer",
    "compare",
    "confirm",
    "draw_graph",
    "embedded_data",
    "load_trained",
    "show_captions",
    "show_source",
    "style",
]
