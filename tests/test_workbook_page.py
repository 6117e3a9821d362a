"""``docs/workbook.md`` shows what the commands print."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from test_workbook import watched, written

from core.workbook.road import FUNCTIONS, ROAD

PAGE = Path(__file__).resolve().parent.parent / "docs" / "workbook.md"
AFFINE = {
    "affine_forward": "def affine_forward(x, w, b):\n"
    "    return x.reshape(len(x), -1) @ w + b, (x, w)\n",
    "affine_backward": "def affine_backward(dout, cache):\n"
    "    x, w = cache\n"
    "    dw = -x.reshape(len(x), -1).T @ dout\n"
    "    return (dout @ w.T).reshape(x.shape), dw, dout.sum(axis=0)\n",
}


def without_hint(text: str) -> str:
    """Its words are those of the gradient check, and tested there."""
    assert "  dw " in text
    return re.sub(r"^  dw .*?(?=^  more|^$)", "", text.strip() + "\n\n", flags=re.M | re.S)


def shown() -> list[str]:
    """The blocks of the page between fences."""
    return re.findall(r"^```\n(.*?)^```\n", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="reads a pipe with select")
def test_the_page_shows_what_is_printed(command, tmp_path):
    """And ``watch`` without a terminal: lines, no keys, until Ctrl-C."""
    new, watch, answer, check = shown()
    _, out, _ = command("core.workbook", "new", "my_layers.py")
    assert new == f"$ python -m core.workbook new my_layers.py\n{out}"
    path = tmp_path / "my_layers.py"
    with watched(path) as watching:
        assert watch.startswith("$ python -m core.workbook watch my_layers.py\n")
        watching.until("affine_forward is empty", "notebooks/")
        watching.save(written(path.read_text(encoding="utf-8"), **AFFINE))
        assert without_hint(watching.until("1 wrong, 45 empty")) == without_hint(answer)
        assert "\x1b" not in watching.all
        assert "\r" not in watching.all
        os.killpg(watching.process.pid, signal.SIGINT)
        assert watching.process.wait(timeout=30) == 130
    _, out, _ = command("core.workbook", "check", "my_layers.py")
    told = f"$ python -m core.workbook check my_layers.py\n{out}"
    assert without_hint(check) == without_hint(told)


def test_the_page_names_chapters_and_counts():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"the {len(FUNCTIONS)} functions" in text
    for chapter in ROAD:
        assert re.search(rf"`{chapter.name}` \((lesson )?{chapter.number}\)", text)
