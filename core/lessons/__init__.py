"""What the notebooks share: what they show, and what answers their exercises."""

from core.lessons.answers import Answer, compare, confirm
from core.lessons.drawing import Sketch
from core.lessons.moving import movable
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
from core.lessons.tasks import watched, with_slips
from core.show.plots import BLUE, GREY, ORANGE

__all__ = [
    "BLUE",
    "GREY",
    "ORANGE",
    "ROOT",
    "TRAINED",
    "Answer",
    "Sketch",
    "compare",
    "confirm",
    "draw_graph",
    "embedded_data",
    "load_trained",
    "movable",
    "show_captions",
    "show_source",
    "style",
    "watched",
    "with_slips",
]
