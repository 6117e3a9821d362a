"""Without PyTorch everything works that does not stand on it, and the rest says what it lacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import venv

import pytest
from conftest import ROOT

from core.support.command_line import run_command
from core.support.pytorch import HOW_TO_INSTALL

MASTERS = ROOT / "notebooks" / "masters"
# A finder that comes first, and finds no torch: as where it is not installed.
NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs this Python without PyTorch, in a folder of its own; (exit code, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("without_torch")
    (folder / "sitecustomize.py").write_text(NO_TORCH)
    path = os.pathsep.join(map(str, (folder, ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

    def run(*arguments) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        return done.returncode, done.stdout, done.stderr

    run.folder = folder
    return run


def test_torch_is_absent_here(python):
    code, _, error = python("-c", "import torch")
    assert code == 1
    assert "No module named 'torch'" in error


LACKS_IT = {
    "--engine torch": (ROOT / "training.py", "--model", "lstm", "--engine", "torch"),
    "--encoder squeezenet1_1": ("-m", "core.flickr8k", "--root", ".", "--out", "data"),
    "--encoder vgg16": (
        *("-m", "core.encoders.extract", "--images", ".", "--out", "a.h5", "--encoder", "vgg16"),
    ),
    "--encoder resnet50": (
        *("-m", "core.reproduce", "--data", ".", "--weights", "w", "--encoder", "resnet50"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["", ".train_step", ".decode", ".bleu_differs"])
def test_benchmarks_that_compare_with_torch_say_so_and_explain_themselves_without_it(
    python, benchmark
):
    code, out, error = python("-m", f"benchmarks{benchmark}", "--help")
    assert (code, error) == (0, "")
    assert "usage:" in out
    needed = ("--checkpoint", "run", "--references", ".") if "bleu" in benchmark else ()
    code, out, error = python("-m", f"benchmarks{benchmark}", *needed)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1, error
    assert f"benchmarks{benchmark}: needs PyTorch, which is not installed" in error


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["memory", "data", "roofline", "busy", "start", "halts"])
def test_benchmarks_of_numpy_alone_load_without_it(python, benchmark):
    code, _, error = python("-c", f"import benchmarks.{benchmark}")
    assert code == 0, error


@pytest.mark.parametrize("what", LACKS_IT)
def test_what_needs_torch_says_so_in_a_line_and_leaves_nothing_behind(python, what):
    code, out, error = python(*LACKS_IT[what])
    assert (code, out) == (2, "")
    assert error.count("\n") == 1, error
    assert f"{what}: needs PyTorch, which is not installed; {HOW_TO_INSTALL}" in error
    assert {p.name for p in python.folder.iterdir()} <= {"sitecustomize.py", "runs", "__pycache__"}
    assert not list(python.folder.glob("runs/*/*.npz"))


def test_what_nobody_foresaw_is_a_line_as_well(python):
    code = """
    from core.support.command_line import run_command
    def main():
        import torch.nn
    run_command(main)
    """
    code, _, error = python("-c", textwrap.dedent(code))
    assert code == 2
    assert error.count("\n") == 1
    assert error.rstrip().endswith(f"needs PyTorch, which is not installed; {HOW_TO_INSTALL}")


def test_another_module_that_is_missing_is_a_bug_and_seen():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        run_command(lambda: __import__("no_such_module"))


def test_gradients_are_checked_against_differences_alone(python):
    code, out, _ = python("-m", "core.gradient_check", "--layer", "lstm_step")
    assert code == 0
    assert "PyTorch, the referee, is not installed" in out
    assert HOW_TO_INSTALL in out
    assert re.search(r"all 6 hold: worst error \S+ against finite differences", out)
    assert "against torch" not in out


def test_a_layer_without_outputs_to_compare_still_has_its_gradient(python):
    code, out, _ = python("-m", "core.gradient_check", "--layer", "temporal_softmax_loss", "--json")
    report = json.loads(out)
    assert (code, report["passed"], report["torch"]) == (0, True, False)
    (row,) = report["rows"]
    assert row["quantity"] == "dx"
    assert row["torch_error"] is None
    assert row["difference_error"] < 1e-6


WRONG = {
    "a sign": (
        "affine_backward",
        "dx, dw, db = layers.affine_backward(dout, cache)\n    return dx, -dw, db",
        "affine: dw has the wrong sign",
    ),
    "a factor": (
        "affine_backward",
        "dx, dw, db = layers.affine_backward(dout, cache)\n    return dx, dw, db / len(dout)",
        "over the batch where the sum belongs",
    ),
    "a forward that does something else": (
        "affine_forward",
        "out, cache = layers.affine_forward(x, w, b)\n    return 2 * out, cache",
        "affine: out the forward pass itself differs",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_learners_mistake_is_named(python, tmp_path, mistake):
    name, body, says = WRONG[mistake]
    arguments = "dout, cache" if name.endswith("backward") else "x, w, b"
    file = tmp_path / "mine.py"
    file.write_text(f"from core import layers\n\ndef {name}({arguments}):\n    {body}\n")
    code, out, _ = python("-m", "core.gradient_check", "--layer", "affine", "--impl", file)
    assert code == 1
    assert says in out


def test_right_functions_of_a_learner_hold_in_a_notebook(python):
    code, out, error = python(
        "-c",
        "from core.gradient_check import check; from core import layers\n"
        "report = check('affine_forward', lambda *a: layers.affine_forward(*a))\n"
        "print(report)\nassert report",
    )
    assert code == 0, error
    assert "affine_forward holds" in out
    assert "out" in out
    assert "PyTorch, the referee, is not installed" in out


# Each lesson by its number, "2" and "2b": what it is made from.
LESSONS = {path.name.split("_")[0].lstrip("0"): path for path in sorted(MASTERS.glob("[01]*.py"))}
# It imports it, lets it look at photos, or asks the checker what it says.
_USES_TORCH = re.compile(r"^import torch\b|\btiny_cnn\b|\.torch_error\b", re.M)
NEED_TORCH = {n for n, p in LESSONS.items() if _USES_TORCH.search(p.read_text(encoding="utf-8"))}
OTHERS = [number for number in LESSONS if number not in NEED_TORCH]


def test_the_lessons_that_need_torch_are_named():
    text = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"Lessons ([^.]+?)\s+need PyTorch", text)
    assert set(re.findall(r"\d+b?", named)) == NEED_TORCH


def imports_of(number: str) -> str:
    """The first cell of code of a lesson, which imports."""
    return re.split(r"^# %%.*$", LESSONS[number].read_text(encoding="utf-8"), flags=re.M)[2]


def test_the_other_lessons_begin_without_it(python):
    cells = [imports_of(number) for number in OTHERS]
    assert all("lessons" in cell for cell in cells)
    code, _, error = python("-c", "\n".join(cells))
    assert code == 0, error


def test_a_model_trains_and_captions(python, tiny_folder, tmp_path):
    run = tmp_path / "run"
    options = ("--data", tiny_folder, "--num_samples", 4, "--num_epochs", 1, "--out", run)
    code, _, error = python(ROOT / "training.py", "--model", "lstm", *options)
    assert code == 0, error
    code, _, error = python(ROOT / "inference.py", "--checkpoint", run, "--split", "train")
    assert code == 0, error


SLOW = pytest.mark.skipif(
    "CAPTION_TEST_VENV" not in os.environ, reason="takes minutes; set CAPTION_TEST_VENV=1"
)


@SLOW
@pytest.mark.parametrize("number", OTHERS)
def test_whole_lessons_run_without_it(python, number):
    code, _, error = python(LESSONS[number])
    assert code == 0, error


@SLOW
def test_what_is_installed_first_is_enough_for_the_demo(tmp_path):
    venv.create(tmp_path / "base", with_pip=True)
    python = next((tmp_path / "base").glob("*/python*"))
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, "-e", ROOT], check=True)
    there = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    names = {package["name"].lower() for package in json.loads(there.stdout)}
    assert not names & {"torch", "scipy", "jupyter"}
    assert len(names) < 20
    options = ("--num_samples", "5", "--num_epochs", "1", "--out", tmp_path / "run")
    subprocess.run([python, ROOT / "training.py", "--model", "lstm", *options], check=True)
