"""The page of examples/app.py: a photo goes in, the report page comes out, in a real browser."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from conftest import ROOT, free_port
from PIL import Image

from core.checkpoint import Checkpoint, save_checkpoint
from core.encoders.extractor import PREPROCESSING
from core.models import build_model

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat", "dog"]
APP = ROOT / "examples" / "app.py"


@pytest.fixture
def app(monkeypatch):
    """The script as a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = importlib.util.spec_from_file_location("app", APP)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    """A model with attention that looks at photos without PyTorch."""
    config = {"input_dim": 47, "wordvec_dim": 5, "hidden_dim": 4, "attention_dim": 3}
    params = build_model("attention", config, WORDS, rng=np.random.default_rng(1)).params
    extractor = {"encoder": "fixed_cnn", "output": "grid", "weights": None, "sha256": None}
    extractor["preprocessing"] = PREPROCESSING["fixed_cnn"]
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    checkpoint = Checkpoint("attention", config, WORDS, params, extractor)
    save_checkpoint(tmp_path / "runs" / "mine" / "best.npz", checkpoint)
    return tmp_path / "runs" / "mine"


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.jpg")
    return tmp_path / "p.jpg"


@pytest.mark.parametrize("decoder", ["beam", "greedy", "sample"])
def test_a_photo_becomes_the_report_page_in_a_frame(app, run, photo, decoder):
    frame = app.caption(str(photo), str(run), decoder, 3.0)
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    assert page.count("<article") == 1
    assert "data-map=" in page
    assert (
        len(re.search(r"<h3>best of the beam</h3><ol>(.*?)</ol>", page, re.S)[1].split("<li>")) > 3
    )
    assert ("beam_size 3" in page) == (decoder == "beam")


def test_what_is_missing_is_said_in_a_line(app, run, photo, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="no photo yet"):
        app.caption(None, str(run), "beam", 5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setitem(sys.modules, "gradio", None)  # not there
    with pytest.raises(SystemExit):
        app.run_command(app.main)
    assert 'pip install -e ".[app]"' in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "70000"])
    with pytest.raises(SystemExit):
        app.run_command(app.main)
    assert "--port: found '70000'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["app.py"])
    run.rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        app.run_command(app.main)
    assert "no trained model there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
def test_a_photo_is_dropped_on_the_page_on_a_phone(run, photo, tmp_path):
    pytest.importorskip("gradio")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(APP), "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    frame = "document.querySelector('iframe')?.contentDocument"
    words = f"{frame}?.querySelectorAll('.word')"
    try:
        assert any(str(port) in line for line in process.stdout)
        with Chromium(tmp_path / "profile", patience=60) as browser:
            browser.open(f"http://127.0.0.1:{port}", width=400)
            browser.wait("document.querySelector('input[type=file]')")
            browser.choose("input[type=file]", photo)
            browser.wait(f"{words}?.length")
            assert browser.run("document.documentElement.scrollWidth") <= 400
            browser.run(f"{words}[0].click()")
            browser.wait(f"{frame}.querySelector('canvas.shown')")
            assert browser.problems == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
