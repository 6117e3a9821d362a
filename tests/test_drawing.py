"""Drawings of the lessons, and pictures that move."""

from __future__ import annotations

import base64
import io
import re
import warnings

import matplotlib
import numpy as np
import pytest
from chromium import PROGRAM, Chromium

matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")
pytest.importorskip("IPython")

from core import lessons  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    with plt.rc_context():
        lessons.style()
        yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, by kind."""
    import IPython.display

    data = {}
    monkeypatch.setattr(IPython.display, "display", lambda d, raw: data.update(d))
    return data


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def test_a_sketch_has_its_size_and_draws_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketch = lessons.Sketch(4, 2)
        a, b = sketch.box(1, 1, "$h$"), sketch.box(3, 1, "tanh", "op", width=0.8)
        sketch.arrow(a, b, "$W_h$")
        sketch.arrow(b, a, "$dh$", "gradient", bend=0.3)
        seen = pixels(sketch.figure)
        sketch.figure.savefig(io.BytesIO())
    assert tuple(sketch.figure.get_size_inches()) == (4, 2)
    assert seen.min() < 100


def test_an_arrow_goes_from_edge_to_edge():
    sketch = lessons.Sketch(4, 2)
    a, b = sketch.box(1, 1, "", width=1, height=0.5), sketch.box(3, 1, "", width=0.6, height=0.5)
    assert a.edge((b.x, b.y)) == (1.5, 1)
    assert b.edge((a.x, a.y)) == (2.7, 1)
    assert a.edge((1, 2)) == (1, 1.25)
    assert a.edge((1, 1)) == (1, 1)


def test_cells_are_darker_where_the_number_is_larger():
    sketch = lessons.Sketch(2, 1)
    box = sketch.cells(1, 0.5, [[0.0, 0.5, 1.0]], size=0.4)
    assert box == pytest.approx((1, 0.5, 1.2, 0.4))
    seen = pixels(sketch.figure)
    height, width = seen.shape[:2]
    shades = [seen[height // 2, int(width * x / 2)].sum() for x in (0.6, 1.0, 1.4)]
    assert shades == sorted(set(shades), reverse=True)


def draw(rate, momentum):
    plt.figure(figsize=(2, 1))
    plt.plot([0, rate], [0, momentum])


def test_a_movable_picture_holds_every_position_once(shown):
    lessons.movable(draw, {"rate": 2, "momentum": 0.5}, rate=[1, 2, 3], momentum=[0.0, 0.5])
    page = shown["text/html"]
    pictures = re.findall(r'"(iVBOR[\w+/=]+)"', page)
    assert len(pictures) == len(set(pictures)) == 6
    assert shown["image/png"] == pictures[3]  # rate 2, momentum 0.5
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG")
    assert page.count('type="range"') == 2
    assert not plt.get_fignums()
    again = dict(shown)
    lessons.movable(draw, {"rate": 2, "momentum": 0.5}, rate=[1, 2, 3], momentum=[0.0, 0.5])
    assert shown == again, "the same lesson, another output"


def test_what_cannot_be_moved_is_refused(shown):
    with pytest.raises(ValueError, match="is not among the choices"):
        lessons.movable(draw, {"rate": 9, "momentum": 0.5}, rate=[1], momentum=[0.5])
    with pytest.raises(ValueError, match="900 pictures, at most 60"):
        lessons.movable(draw, {"rate": 0, "momentum": 0}, rate=range(30), momentum=range(30))
    assert not shown


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium")
def test_the_picture_follows_its_sliders(shown, tmp_path):
    lessons.movable(draw, {"rate": 1, "momentum": 0.0}, rate=[1, 2, 3], momentum=[0.0, 0.5])
    pictures = re.findall(r'"(iVBOR[\w+/=]+)"', shown["text/html"])
    page = tmp_path / "page.html"
    page.write_text(shown["text/html"], encoding="utf-8")
    with Chromium(tmp_path / "browser") as browser:
        browser.open(page)
        assert browser.run("document.querySelector('img').src").endswith(pictures[0])
        browser.run(
            "[...document.querySelectorAll('input')].forEach((slider, i) => {"
            "slider.value = [2, 1][i]; slider.dispatchEvent(new Event('input'))})"
        )
        assert browser.run("document.querySelector('img').src").endswith(pictures[5])
        assert browser.run("document.querySelector('output').textContent") == "3"
        assert not browser.problems
