"""What several tests share: the embedded data, a tiny data folder, commands run in this process."""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import socket
import subprocess
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from core import shapes
from core.coco_utils import save_coco_data
from core.support.command_line import run_command


def pytest_configure(config):
    if sys.platform == "darwin":  # Apple's products raise flags for finite numbers
        config.addinivalue_line(
            "filterwarnings", "ignore:.*encountered in (matmul|dot|vecdot|einsum):RuntimeWarning"
        )


ROOT = Path(__file__).resolve().parent.parent
# Real photos, weights and the COCO vocabulary, for the tests that are skipped without them.
REAL_DATA = Path(os.environ.get("CAPTION_REAL_DATA", ROOT.parent / "shared"))


def slow_but(values, *quick) -> list:
    """The values of a parametrized test, of which make test takes only the quick ones."""
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]


@pytest.fixture(scope="session")
def shapes_folder() -> Path:
    """The embedded data set, made once and kept."""
    return shapes.prepare_shapes()


WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat", "dog", "runs", "sits"]


@pytest.fixture
def tiny_folder(tmp_path) -> Path:
    """A data folder of 12 training and 5 validation images, made of random numbers."""
    return make_tiny_folder(tmp_path / "tiny")


def make_tiny_folder(folder: Path, words=WORDS, longest: int = 4) -> Path:
    rng = np.random.default_rng(0)
    captions, urls, features = {}, {}, {}
    for split, count in (("train", 12), ("val", 5)):
        captions[split] = [
            (
                image,
                [str(word) for word in rng.choice(words[4:], size=rng.integers(1, longest + 1))],
            )
            for image in range(count)
            for _ in range(2)
        ]
        urls[split] = [f"{split}{i}.png" for i in range(count)]
        features[split] = rng.standard_normal((count, 6)).astype(np.float32)
    specification = {
        "encoder": "fixed_cnn",
        "output": "strips",
        "preprocessing": {"size": 64},
        "weights": None,
        "sha256": None,
    }
    save_coco_data(
        folder,
        captions,
        words,
        urls,
        {"pooled": features},
        {"pooled": (specification, {})},
        image_root=".",
        about={"name": "tiny"},
    )
    return folder


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``training.py``, ``core.shapes``, ... here; returns exit code, stdout, stderr.

    The current folder is a temporary one, so that runs land there.
    """
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_command(main_of(name.removesuffix(".py")))
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run


@contextmanager
def in_folder(folder):
    """For what is made once and shared, where ``command`` is not to be had."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        yield lambda name, *arguments: _run_well(patch, name, arguments)


def _run_well(patch, name, arguments):
    patch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_command(main_of(name.removesuffix(".py")))
    assert not stop.value.code


def main_of(name):
    """The ``main`` of a module, or of what ``python -m`` runs of a package."""
    if hasattr(importlib.import_module(name), "__path__"):
        name += ".__main__"
    return importlib.import_module(name).main


@pytest.fixture
def refuses(command):
    """Runs a command that must end with exit code 2 and one line on stderr with all the words."""

    def run(*arguments, says: tuple[str, ...]) -> str:
        code, _, error = command(*arguments)
        assert code == 2, error
        assert error.count("\n") == 1, error
        assert "Traceback" not in error
        for words in says:
            assert words in error, error
        return error

    return run


def start_torchrun(folder, *options) -> subprocess.Popen:
    """A script (or -m MODULE) in two processes of this machine, started in that folder."""
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port())
    return subprocess.Popen(
        list(map(str, (sys.executable, *launcher, *options))),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TwoProcesses:
    """As ``start_torchrun`` with a command by its name, from a process that has PyTorch already.

    So that most tests of several processes need not wait for three imports of it.
    """

    def __init__(self, folder, name, *options):
        if "forkserver" not in multiprocessing.get_all_start_methods():
            pytest.skip("this system has no forkserver, as Windows")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "matplotlib.figure", "conftest"])
        port, self.args = free_port(), (name, *map(str, options))
        self.printed = [Path(folder) / f".printed_by_{rank}" for rank in range(2)]
        self.processes = [
            context.Process(
                target=_one_of_two, args=(rank, port, folder, self.args, self.printed[rank])
            )
            for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def done(self) -> subprocess.CompletedProcess:
        """Waits for the end. The exit code is that of the first that failed."""
        for process in self.processes:
            process.join(timeout=120)
            process.kill()
        texts = []
        for stream in ("out", "err"):
            files = [path.with_suffix(f".{stream}") for path in self.printed]
            texts.append("".join(file.read_text() for file in files))
            for file in files:
                file.unlink()
        code = next((p.exitcode for p in self.processes if p.exitcode), 0)
        return subprocess.CompletedProcess(self.args, code, *texts)


def two_processes(folder, name, *options) -> subprocess.CompletedProcess:
    """A command in two processes, as ``torchrun`` would start them."""
    return TwoProcesses(folder, name, *options).done()


def _one_of_two(rank, port, folder, arguments, printed):
    """What ``torchrun`` tells a process, then the command in it."""
    os.chdir(folder)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    for stream, number in (("out", 1), ("err", 2)):
        with open(printed.with_suffix(f".{stream}"), "wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = list(arguments)
    run_command(main_of(arguments[0].removesuffix(".py")))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
