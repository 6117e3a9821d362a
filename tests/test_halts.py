"""Killed, interrupted, a full disk, pipes and servers without end: one line, and nothing lost.

``python -m benchmarks.halts`` does the same to whole commands, some hundreds of times.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_flickr8k import make_photos, write_csv
from test_run_folders import ended_process, names
from test_solver import assert_same_run

from core.encoders.extract import extract_folder
from core.flickr8k import prepare_photos
from core.image_utils import load_image
from core.metrics import score
from core.metrics.scores import rouge_l
from core.runs.lock import LOCK_FILE, NEW_RUN, locked
from core.support.files import atomic_file, atomic_folder, try_out, write_text
from datasets import fetch_coco

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")

TINY = ("--model", "rnn", "--num_epochs", 2, "--hidden_dim", 8, "--wordvec_dim", 8)


def python(*words, cwd=None, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
        **more,
    )


# ---------------------------------------------------------------------------------------------
# Ctrl-C
# ---------------------------------------------------------------------------------------------

# Python stops itself when it has come to a module, so that the moment is the same on each machine.
STOPPED = """
import os, runpy, signal, sys

class Stop:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Stop())
"""


def stopped_while_it_loads(module, folder, *words) -> subprocess.CompletedProcess:
    """A command that gets Ctrl-C when it imports that module."""
    (folder / "sitecustomize.py").write_text(STOPPED.format(module=module))
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    "module", ["core.support.choices", "numpy", "h5py", "core.captioning_solver"]
)
def test_while_modules_are_loaded(tmp_path, tiny_folder, module):
    options = ("--model", "rnn", "--data", tiny_folder, "--out", "run")
    done = stopped_while_it_loads(module, tmp_path, ROOT / "training.py", *options)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["core.metrics", "core.shapes", "core.gradient_check"])
def test_while_the_modules_of_a_package_are_loaded(tmp_path, command):
    done = stopped_while_it_loads("numpy", tmp_path, "-m", command)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


IMPORTS = "import core, signal; assert signal.getsignal(2) is signal.default_int_handler"


def test_a_program_of_others_keeps_its_own_ways(tmp_path):
    assert python("-c", IMPORTS, cwd=tmp_path).wait() == 0
    (tmp_path / "own.py").write_text(IMPORTS)
    assert python("own.py", cwd=tmp_path).wait() == 0


# A command that is interrupted in the given way; it is started as one of the project's own.
ENDS = {
    "at work": ("raise_signal(2)", 130, "interrupted\n"),
    "in a finalizer, where Python drops it": (
        "type('A', (), {'__del__': lambda self: raise_signal(2)})()",
        130,
        "interrupted\n",
    ),
    "twice, and the first is held up": (
        "\n    try: raise_signal(2)\n    finally: raise_signal(2)",
        130,
        "interrupted\n",
    ),
    "where another error is made of it": (
        "\n    try: raise_signal(2)\n    except KeyboardInterrupt: raise ImportError('numpy')",
        130,
        "interrupted\n",
    ),
    "after the work": ("import atexit; atexit.register(raise_signal, 2)", 0, ""),
    "after an error": (
        "import atexit; atexit.register(raise_signal, 2); raise ValueError('x: no such thing')",
        2,
        "halt.py: error: x: no such thing\n",
    ),
}


@pytest.mark.parametrize(("work", "code", "said"), ENDS.values(), ids=ENDS)
def test_at_any_moment(tmp_path, work, code, said):
    (tmp_path / "halt.py").write_text(
        "import sys\n"
        "sys.argv[0] = '-m'; import core; sys.argv[0] = 'halt.py'\n"
        "from signal import raise_signal\n"
        "from core.support.command_line import run_command\n"
        f"def main():\n    {work}\n"
        "run_command(main)\n"
    )
    process = python("halt.py", cwd=tmp_path)
    _, error = process.communicate()
    assert (process.returncode, error) == (code, said)


# ---------------------------------------------------------------------------------------------
# What a killed process leaves
# ---------------------------------------------------------------------------------------------

KILLED = """
import os, signal
from core.support.files import atomic_file, atomic_folder
with {what} as temporary:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""
FILE = ("atomic_file('a.json')", "temporary.write_text('half')")
FOLDER = ("atomic_folder('data')", "(temporary / 'x.h5').write_text('half')")


@pytest.mark.parametrize(("what", "write"), [FILE, FOLDER], ids=["file", "folder"])
def test_what_a_killed_process_was_writing_is_swept(tmp_path, what, write):
    process = python("-c", KILLED.format(what=what, write=write), cwd=tmp_path)
    assert process.wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    write_text(tmp_path / "another.txt", "whole")
    assert names(tmp_path) == {"another.txt"}


def test_what_was_killed_while_it_tried_a_place_is_swept_by_the_next_that_tries_it(tmp_path):
    """Of a run folder nothing else is written beside it."""
    code = (
        "import os, signal, pathlib; from core.support.files import try_out; "
        "pathlib.Path.unlink = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "try_out('--out', 'run')"
    )
    assert python("-c", code, cwd=tmp_path).wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    try_out("--out", tmp_path / "run")
    assert names(tmp_path) == set()


def test_only_what_nobody_writes_is_swept(tmp_path):
    dead, machine = ended_process(), re.escape(socket.gethostname())
    ours = [f".data.{dead}.part", f".a.{dead}.part.json"]  # of an earlier version
    kept = [
        f".data.{os.getpid()}.part",  # is at work
        f".data.{dead}-00000000.part",  # on another machine
        f".thesis.{dead}.part",  # of another program, may be
        f"data.{dead}.part",
        ".data.part",
        "notes.txt",
    ]
    for name in [*ours, *kept]:
        (tmp_path / name).write_text(machine)
    with atomic_folder(tmp_path / "data"):
        assert not (tmp_path / ours[0]).exists()
    write_text(tmp_path / "a.json", "{}")
    assert names(tmp_path) == {*kept, "data", "a.json"}
    week = time.time() - 8 * 24 * 3600
    os.utime(tmp_path / kept[1], (week, week))
    write_text(tmp_path / "a.json", "{}")
    assert kept[1] not in names(tmp_path), "nobody has written it for a week"


def test_parts_beside_data_that_are_there_are_removed(tmp_path, refuses):
    """Of a process that was killed when all was done but its cleaning up."""
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    (tmp_path / ".data.parts").mkdir()
    code = "import os; from core.support import files; files.shutil.rmtree = os._exit; "
    python(
        "-c", code + "os.mkdir('.f.parts'); files.remove_folder('.f.parts')", cwd=tmp_path
    ).wait()
    assert any(name.startswith("..f.parts.") for name in names(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    refuses("core.flickr8k", "--root", root, "--out", "data", says=("data: is there already",))
    assert names(tmp_path) == {"photos", "data"}
    (tmp_path / ".f.h5.parts").mkdir()
    (tmp_path / "f.h5").touch()
    refuses("core.encoders.extract", "--images", root, "--out", "f.h5", says=("--out f.h5",))
    assert names(tmp_path) == {"photos", "data", "f.h5"}


# ---------------------------------------------------------------------------------------------
# A new run over an old one
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_run_that_never_began_is_not_resumed_as_the_one_before_it(
    command, refuses, tiny_folder, tmp_path, monkeypatch, end
):
    train = ("training.py", *TINY, "--data", tiny_folder, "--out")
    assert command(*train, "run")[0] == 0
    assert command(*train, "whole", "--seed", 7)[0] == 0

    def stopped(*_):
        raise end(1)

    with monkeypatch.context() as patch:
        patch.setattr("training.load_data", stopped)
        assert command(*train, "run", "--seed", 7)[0] != 0
    resume = ("training.py", "--resume", "--out", "run")
    for _ in range(2):
        refuses(*resume, says=("run: a new run was stopped before", "without --resume", NEW_RUN))
    assert command(*train, "run", "--seed", 7)[0] == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    for folder in ("run", "run.old1"):
        assert not [name for name in names(tmp_path / folder) if name.startswith(".")]
    assert command(*resume, "--num_epochs", 3)[0] == 0


def test_a_new_run_that_was_refused_leaves_the_old_one_to_be_resumed(command, refuses, tiny_folder):
    assert command("training.py", *TINY, "--data", tiny_folder, "--out", "run")[0] == 0
    refuses("training.py", *TINY, "--data", "nowhere", "--out", "run", says=("nowhere",))
    assert command("training.py", "--resume", "--num_epochs", 3, "--out", "run")[0] == 0


def test_the_file_that_says_so_may_be_removed(command, tiny_folder, tmp_path):
    assert command("training.py", *TINY, "--data", tiny_folder, "--out", "run")[0] == 0
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "run"):
        raise KeyboardInterrupt
    (tmp_path / "run" / NEW_RUN).unlink()
    assert command("training.py", "--resume", "--num_epochs", 3, "--out", "run")[0] == 0


def test_locks_of_runs_that_a_killed_process_moved_aside_are_swept(tmp_path):
    (tmp_path / "run.old1").mkdir()
    (tmp_path / "run.old1" / LOCK_FILE).write_text("torn")
    (tmp_path / "run.old1" / NEW_RUN).touch()
    with locked(tmp_path / "run.old2"), locked(tmp_path / "run"):
        assert names(tmp_path / "run.old1") == set()
        assert names(tmp_path / "run.old2") == {LOCK_FILE}, "is at work"


# ---------------------------------------------------------------------------------------------
# A full disk
# ---------------------------------------------------------------------------------------------

WRITERS = {
    "text": ("c.json", "write_text(path, 'x' * 9000)"),
    "a checkpoint": ("c.npz", "np.savez(temporary, a=np.zeros(9000), b=np.zeros(9000))"),
    "HDF5": ("c.h5", "\n  with h5py.File(temporary, 'w') as f: f['x'] = np.zeros(9000)"),
    "HDF5 in blocks": (
        "c.h5",
        "write_features(temporary, Blocks((99, 9000), np.float32, "
        "lambda: (np.ones((9, 9000)) for _ in range(11))))",
    ),
    "a picture": ("c.png", "Image.fromarray(noise).save(temporary)"),
    "a file of a folder": ("c/d/x.json", "None"),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_said_with_the_name_of_the_file(tmp_path, name, write):
    """Here files may not be larger than 2,000 bytes, which is told in the same way."""
    body = f"with atomic_file(path) as temporary: {write}"
    if name.startswith("c/"):
        body = (
            "with atomic_folder('c') as temporary:\n"
            "  (temporary / 'd').mkdir()\n"
            "  write_json(temporary / 'd' / 'x.json', [1] * 9000)"
        )
    source = f"""
import resource, h5py, numpy as np
from PIL import Image
from core.coco_utils.tables import Blocks, write_features
from core.support.command_line import run_command
from core.support.files import *
from core.support.files import atomic_file, atomic_folder, write_json, write_text
noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
path = {name!r}
def main():
 resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
 {body}
run_command(main)
"""
    process = python("-c", source, cwd=tmp_path)
    _, error = process.communicate()
    assert process.returncode == 2, error
    assert re.fullmatch(
        rf"-c: error: {re.escape(name)}: could not be written \(File too large\); make room .*\n",
        error,
    )
    assert names(tmp_path) == set()


def test_an_error_that_names_another_file_is_left_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"), atomic_file(tmp_path / "a.txt"):
        (tmp_path / "gone").read_text()
    with pytest.raises(ValueError, match=r"^mine$"), atomic_file(tmp_path / "a.txt"):
        raise ValueError("mine")
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.txt'"):
        write_text(tmp_path / "nowhere" / "a.txt", "")


# ---------------------------------------------------------------------------------------------
# Without bound
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """Reading and drawing fail, so that what is refused later is seen."""

    def work(*_, **__):
        raise AssertionError("--out was not tried first")

    for name in (
        "core.shapes._draw_different_scenes",
        "core.flickr8k.read_photo_folder",
        "core.image_utils.list_pictures",
        "training.load_data",
        "datasets.fetch_coco.download",
    ):
        monkeypatch.setattr(name, work)


IMPOSSIBLE = ["/proc/impossible/data", "file.txt/data", f"{'x' * 300}/data", "a/" + "y" * 300]


@pytest.mark.parametrize("out", IMPOSSIBLE, ids=["no folder", "a file", "long", "long below"])
def test_out_is_tried_before_the_work(refuses, no_work, tmp_path, out):
    (tmp_path / "file.txt").touch()
    for words in (
        ("core.shapes",),
        ("core.flickr8k", "--root", "photos"),
        ("core.encoders.extract", "--images", "photos"),
        ("datasets.fetch_coco",),
        ("training.py", "--model", "rnn"),
    ):
        refuses(*words, "--out", out, says=(out[:100],))
    assert names(tmp_path) == {"file.txt"}


def test_what_is_made_to_try_is_removed(tmp_path):
    try_out("--out", tmp_path / "a" / "b" / "c")
    assert names(tmp_path) == set()
    (tmp_path / "a").mkdir()
    try_out("--out", tmp_path / "a" / "c")
    assert names(tmp_path) == {"a"}


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def plug(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


@pytest.mark.parametrize(("make", "kind"), [(pipe, "a pipe"), (plug, "a socket")])
def test_a_pipe_is_no_file(command, refuses, tiny_folder, tmp_path, make, kind):
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    make(root / "Images" / "000.jpg")
    with pytest.raises(ValueError, match=f"000.jpg: is {kind}, expected a file"):
        load_image(root / "Images" / "000.jpg")
    make(tmp_path / "said.json")
    (tmp_path / "wanted.json").write_text('{"a": ["b"]}')
    ways = {"--candidates": "said.json", "--references": "wanted.json"}
    refuses("core.metrics", *sum(ways.items(), ()), says=(f"said.json: is {kind}",))
    for name in ("coco2014_vocab.json", "dataset.json"):
        make(tiny_folder / name)
        refuses("training.py", *TINY, "--data", tiny_folder, says=(f"{name}: ",))


@pytest.fixture
def endless():
    """A server that sends for ever, and the time it waits between blocks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        block, pause, length, sent = bytes(2**16), 0.0, None, 0

        def do_GET(self):
            self.send_response(200)
            if Handler.length:
                self.send_header("Content-Length", str(Handler.length))
            self.end_headers()
            try:
                while Handler.sent < 2**27:
                    self.wfile.write(Handler.block)
                    self.wfile.flush()
                    Handler.sent += len(Handler.block)
                    time.sleep(Handler.pause)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{running.server_port}/coco_captioning.zip"
    yield Handler
    running.shutdown()
    running.server_close()


def fetched(tmp_path, url) -> tuple[str, int]:
    with pytest.raises(ValueError, match=re.escape(url)) as error:
        fetch_coco.download(url, tmp_path / "a.zip")
    return str(error.value), sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_server_without_end_is_left(endless, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_coco, "_LARGEST", 2**20)
    said, size = fetched(tmp_path, endless.url)
    assert "sends more than" in said
    assert size <= 2**20
    assert not (tmp_path / "a.zip").exists()


def test_a_file_that_is_too_large_is_not_fetched(endless, tmp_path):
    endless.length = 10**12
    said, size = fetched(tmp_path, endless.url)
    assert "announces 1,000,000,000,000 bytes" in said
    assert size == 0


def test_a_server_that_trickles_is_left(endless, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_coco, "_TIMEOUT", 0.1)
    endless.block, endless.pause = b"x", 0.02
    assert "bytes came in" in fetched(tmp_path, endless.url)[0]


def test_a_long_caption_takes_no_time():
    rng = np.random.default_rng(0)
    long = " ".join(rng.choice(["a", "dog", "man", "red", "ball"], 30_000))
    begin = time.process_time()
    score({0: long, 1: "a dog"}, {0: [long, "a dog runs"], 1: ["a dog", long]})
    assert time.process_time() - begin < 6


def test_rouge_of_words_in_another_order():
    """The longest common subsequence of 'a b c d' and 'b d a c' is 'b d', or 'a c', or 'b c'."""
    found = rouge_l({0: list("abcd")}, {0: [list("bdac")]})
    assert found == pytest.approx(50)
    assert rouge_l({0: list("aab")}, {0: [list("abab")]}) == pytest.approx(
        100 * 2.44 * 1 * 0.75 / (0.75 + 1.44)
    )


# ---------------------------------------------------------------------------------------------
# Names that are no text
# ---------------------------------------------------------------------------------------------


def test_a_name_that_cannot_be_written_is_refused_before_photos_are_looked_at(
    tmp_path, monkeypatch
):
    def looked(*_, **__):
        raise AssertionError("photos were looked at")

    monkeypatch.setattr("core.encoders.extract.open_all", looked)
    monkeypatch.setattr("core.flickr8k.open_all", looked)
    root = make_photos(tmp_path / "photos")
    write_csv(root)
    for path in root.glob("*.txt"):
        path.unlink()
    photos = sorted((root / "Images").iterdir())
    try:
        odd = photos[3].rename(photos[3].with_name("caf\udce9.jpg"))
    except OSError:
        pytest.skip("the file system takes no such name")
    with pytest.raises(ValueError, match=r"caf.udce9\.jpg.* not text in UTF-8.* rename it"):
        extract_folder(root, tmp_path / "f.h5", "fixed_cnn", "random", pca=0)
    rows = {path.name: ["a dog runs"] for path in [*photos[:3], odd, *photos[4:]]}
    (root / "captions.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"caf.udce9\.jpg.* not text in UTF-8"):
        prepare_photos(root, tmp_path / "data", "squeezenet1_1", "random", pca=0, min_count=1)
    assert names(tmp_path) == {"photos"}
