"""Every command of the README runs, as it is printed there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, slow_but
from PIL import Image

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
_PROGRAM = r"(?:git|make|python|torchrun)\b"
COMMANDS = list(
    dict.fromkeys(
        re.findall(rf"^ {{4}}({_PROGRAM} .+)$", TEXT, re.M)
        + re.findall(rf"`({_PROGRAM} [^`]+)`", TEXT)
    )
)
INSTALLS = "the network; jobs install so, and tests/test_without_torch.py with CAPTION_TEST_VENV=1"
# What no test types, and why not.
NOT_RUN = {
    "git clone <this repository> && cd caption-from-scratch": "the address is not known yet",
    "python -m pip install -e .": INSTALLS,
    "python -m pip install -e '.[torch,dev]'": INSTALLS,
    "python -m pip install -e '.[lessons]'": INSTALLS,
    "python -m pip install -e '.[site]'": INSTALLS,
    'python -m pytest -n auto -m "not slow"': "this is that",
    "python -m jupyter lab notebooks": "opens a browser and stays",
    "python -m sphinx -c docs/site . site": "tests/test_site.py builds it",
    "python -m core.workbook watch my_layers.py": "stays; the tests of the workbook watch",
    "python training.py --model attention": "ten minutes; below with --num_samples",
    "python -m core.flickr8k --root PHOTOS --out datasets/mine --encoder mobilenet_v2"
    " --weights download": "weights from the network; tests/test_flickr8k.py with random ones",
    "python training.py --model lstm --data datasets/mine": "needs those features",
}
ALONE = {
    "python -m core.gradient_check --impl my_layers.py": 1,  # the exit code: it is wrong
    "python -m core.workbook new my_layers.py": 0,
}
MAKE = [c for c in COMMANDS if c.startswith("make ")]
SLOW = [c for c in COMMANDS if c not in {*NOT_RUN, *ALONE, *MAKE}]
WRONG = """
from core import rnn_layers

def lstm_step_backward(dnext_h, dnext_c, cache):
    dx, dprev_h, dprev_c, dWx, dWh, db = rnn_layers.lstm_step_backward(dnext_h, dnext_c, cache)
    return dx, dprev_h, dprev_c, -dWx, dWh, db
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """The project as a learner has it, with a place of its own for runs."""
    for name in ("core", "notebooks", "datasets", "training.py", "inference.py"):
        try:
            (tmp_path / name).symlink_to(ROOT / name)
        except OSError:  # Windows, where that is a privilege
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    Image.new("RGB", (80, 60), "teal").save(tmp_path / "photo.jpg")
    return tmp_path


def type_in(folder: Path, command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, *command.split()[1:]]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )


def test_each_command_is_run_or_named_with_the_reason():
    assert len(COMMANDS) > 25
    assert {*NOT_RUN, *ALONE} <= set(COMMANDS), "no longer in the README"
    assert all(command.startswith("python ") for command in SLOW), SLOW


def test_what_make_would_do():
    if shutil.which("make") is None:
        pytest.skip("no make")
    targets = [command.split()[1] for command in MAKE]
    assert {"demo", "test", "lessons", "check", "site", "bench"} <= set(targets)
    subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", slow_but(ALONE, "python -m core.workbook new my_layers.py"))
def test_commands_by_themselves(folder, command):
    if "--impl" in command:
        (folder / "my_layers.py").write_text(WRONG, encoding="utf-8")
    done = type_in(folder, command)
    assert done.returncode == ALONE[command], done.stderr
    if "--impl" in command:
        assert "dWx" in done.stdout
        assert "--hint 2" in done.stdout


@pytest.mark.slow
def test_the_others_in_their_order(folder):
    """Each goes on from what those before it made."""
    before = [
        ("attention", "python training.py --model attention --num_samples 6 --num_epochs 1"),
        ("lstm", "python training.py --model lstm --num_samples 6 --num_epochs 1"),
    ]
    assert type_in(folder, "python -m core.workbook new my_layers.py").returncode == 0
    for name, command in before:
        done = type_in(folder, f"{command} --out runs/{name}")
        assert done.returncode == 0, done.stderr
    assert len(SLOW) > 10
    for command in SLOW:
        done = type_in(folder, command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert "Traceback" not in done.stderr
    for file in ("runs/demo/captions.png", "captions.png", "report.html", "captions.json"):
        assert (folder / file).stat().st_size > 1000, file
