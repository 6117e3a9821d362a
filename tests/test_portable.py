"""What differs between Linux, macOS and Windows, as far as one system can play another."""

from __future__ import annotations

import ast
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from core import lessons
from core.fast import threads
from core.support import command_line, files
from core.support.command_line import progress, quoted, run_command

WINDOWS = "win32"


# -- lines to paste -----------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["linux", "darwin", WINDOWS])
@pytest.mark.parametrize("name", ["runs/lstm", "a-b_c.1", "C:/data/x", "überall/été"])
def test_plain_names_stay_as_they_are(name, system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    assert quoted(name) == name


@pytest.mark.parametrize("system", ["linux", "darwin", WINDOWS])
@pytest.mark.parametrize("name", ["my photos", "it's", "a&b", "(1)", "x;y", "~/runs", ""])
def test_other_names_have_double_quotes_which_all_shells_know(name, system, monkeypatch):
    """cmd knows no single quotes."""
    monkeypatch.setattr(sys, "platform", system)
    assert quoted(name) == f'"{name}"'
    assert shlex.split(quoted(name)) == [name]


@pytest.mark.parametrize("name", ['say "a"', "$HOME", "`id`", "wow!", r"a\b", "a b\\"])
def test_what_sh_reads_within_double_quotes_is_safe_there(name, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert shlex.split(quoted(name)) == [name]


def test_windows_names_keep_their_backslashes(monkeypatch):
    monkeypatch.setattr(sys, "platform", WINDOWS)
    assert quoted(r"runs\lstm") == r"runs\lstm"
    assert quoted(r"C:\my runs") == r'"C:\my runs"'


def test_the_next_line_of_a_training_can_be_pasted(command, tiny_folder):
    options = ("--data", tiny_folder, "--num_samples", 4, "--num_epochs", 1)
    code, out, _ = command("training.py", "--model", "rnn", *options, "--out", "my runs/it's")
    assert code == 0
    line = out.rstrip().splitlines()[-1]
    assert line == 'next: python inference.py --checkpoint "my runs/it\'s" --split train'
    code, _, error = command(*shlex.split(line)[2:])
    assert code == 0, error


# -- files --------------------------------------------------------------------------------------


def busy(times: int):
    """``os.replace`` that Windows refuses so many times."""
    tries = []

    def replace(source, target):
        tries.append(source)
        if len(tries) <= times:
            raise PermissionError(13, "Access is denied", str(target))
        shutil.move(source, target)

    replace.tries = tries
    return replace


def test_a_file_that_is_open_for_a_moment_is_replaced(tmp_path, monkeypatch):
    replace = busy(3)
    monkeypatch.setattr(sys, "platform", WINDOWS)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert len(replace.tries) == 4


def test_a_file_that_stays_open_is_said_and_kept(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(sys, "platform", WINDOWS)
    monkeypatch.setattr(os, "replace", busy(10**6))
    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    with pytest.raises(PermissionError, match=r"a\.txt: is open in another program.* close it"):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_elsewhere_a_file_that_may_not_be_replaced_is_an_error_at_once(tmp_path, monkeypatch):
    replace = busy(1)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError):
        files.write_text(tmp_path / "a.txt", "new")
    assert len(replace.tries) == 1


def test_data_goes_into_the_project_and_of_an_installed_copy_into_this_folder(tmp_path):
    from core.shapes import DEFAULT_FOLDER

    assert DEFAULT_FOLDER == ROOT / "datasets" / "shapes"
    site = tmp_path / "site-packages"
    support = shutil.copytree(
        ROOT / "core" / "support", site / "core" / "support",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    assert support.is_dir()
    code = """if True:
    from core.support.command_line import run_command
    from core.support.files import DATASETS
    run_command(lambda: print(DATASETS))
    """
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == (tmp_path / "here" / "datasets").resolve()
    assert done.stderr.count("\n") == 1
    assert "python -m pip install -e" in done.stderr


def test_lines_end_in_one_way_on_every_system():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no checkout by git")
    of_git = ["git", "-C", str(ROOT)]
    names = ["core/layers.py", "notebooks/masters/01_the_task_and_the_data.py", "Makefile", "a.md"]
    asked = subprocess.run(
        [*of_git, "check-attr", "text", "eol", "--", *names, "docs/captions.png"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in names:
        assert f"{name}: eol: lf" in asked
    assert "docs/captions.png: text: unset" in asked
    held = subprocess.check_output([*of_git, "ls-files", "--eol"], text=True)
    assert not re.findall(r"^i/(?:crlf|mixed).*", held, re.M)


# -- what is printed ----------------------------------------------------------------------------


def stream_of(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_caption_prints_whatever_the_console_can_express(encoding, monkeypatch):
    out = stream_of(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: print("a cat \u732b \u2014 x"))
    assert not stop.value.code
    assert "a cat \\u732b" in out.buffer.getvalue().decode(encoding)


@pytest.fixture
def no_notebook(monkeypatch):
    """Other tests may have loaded what tells a notebook."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_progress_without_a_terminal_is_a_line_every_few_seconds(no_notebook, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "_SECONDS_A_LINE", 0.02)
    for _ in progress(range(20), "drawing pictures"):
        time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 20
    assert all(re.match(r"drawing pictures: \d+ of 20, \d\d:\d\d left$", each) for each in lines)


def test_progress_within_progress_is_lines_as_well(no_notebook, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "_SECONDS_A_LINE", 0.01)
    for _ in progress(range(2), "captioning"):
        for _ in progress(range(3), "looking at pictures"):
            time.sleep(0.02)
    printed = capsys.readouterr().err
    assert "captioning: 1 of 2" in printed
    assert "looking at pictures: 2 of 3" in printed
    assert "\x1b" not in printed, repr(printed)


def test_progress_of_a_moment_prints_nothing_without_a_terminal(no_notebook, capsys):
    assert list(progress(range(1000), "drawing pictures")) == list(range(1000))
    with progress(None, "features", total=3) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_notebook_keeps_no_lines_of_progress(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(command_line, "_SECONDS_A_LINE", 0)
    assert len(list(progress(range(100), "drawing pictures"))) == 100
    assert capsys.readouterr().err == ""


# -- macOS --------------------------------------------------------------------------------------


def test_products_that_threadpoolctl_does_not_see_are_taken_to_use_all_cores(monkeypatch):
    monkeypatch.setattr(threads, "_blas", lambda: types.SimpleNamespace(info=list))
    monkeypatch.setattr(threads, "number_of_cores", lambda: 8)
    for name in ("VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert threads.number_of_threads() == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.number_of_threads() == 2
    monkeypatch.setenv("VECLIB_MAXIMUM_THREADS", "1")
    assert threads.number_of_threads() == 1


@pytest.mark.parametrize("asked", ["", "0", "many", "4,2"])
def test_a_number_of_threads_that_is_none_does_not_count(asked, monkeypatch):
    monkeypatch.setattr(threads, "_blas", lambda: types.SimpleNamespace(info=list))
    monkeypatch.setattr(threads, "number_of_cores", lambda: 3)
    monkeypatch.delenv("VECLIB_MAXIMUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads.number_of_threads() == 3


def test_float64_on_the_gpu_of_a_mac_is_refused_in_a_line(refuses, tiny_folder, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    options = ("--model", "rnn", "--data", tiny_folder, "--engine", "torch", "--dtype", "float64")
    refuses("training.py", *options, says=("--dtype float64", "mps", "--device cpu"))


@pytest.mark.filterwarnings("default::RuntimeWarning")
@pytest.mark.parametrize("text", ["divide by zero", "overflow", "invalid value"])
def test_flags_that_apples_products_raise_are_no_warning_there(text, monkeypatch, capsys):
    import warnings

    def main():
        warnings.warn(f"{text} encountered in matmul", RuntimeWarning, stacklevel=1)

    for system, lines in (("darwin", 0), ("linux", 1)):
        monkeypatch.setattr(sys, "platform", system)
        with pytest.raises(SystemExit):
            run_command(main)
        assert capsys.readouterr().err.count("\n") == lines


# -- Windows ------------------------------------------------------------------------------------


def test_torchrun_that_cannot_join_is_a_line_that_says_what_to_set(monkeypatch):
    torch = pytest.importorskip("torch")
    from core.support import processes

    def refuse(_):
        raise RuntimeError("use_libuv was requested but PyTorch was built without libuv support")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", refuse)
    with pytest.raises(ConnectionError, match=r"USE_LIBUV=0") as error, processes.joined("cpu"):
        pass
    assert "\n" not in str(error.value)


ABSENT_ON_WINDOWS = {"SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM"}
ABSENT_ON_WINDOWS |= {"fork", "mkfifo", "killpg", "getuid", "geteuid", "sched_getaffinity"}
ABSENT_ON_WINDOWS |= {"fcntl", "resource", "pwd", "pty", "termios"}


def at_import(source: str) -> set[str]:
    """Names and attributes that a module uses when it is imported, those of decorators too."""
    found, todo = set(), [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            todo += getattr(node, "decorator_list", [])
            continue
        if isinstance(node, ast.Try | ast.With):
            continue  # such a one knows that it may be absent
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.name for alias in node.names} | {getattr(node, "module", None)}
        todo += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("folder", ["tests", "core", "benchmarks", "notebooks", "."])
def test_nothing_that_windows_lacks_is_needed_to_import(folder):
    files = (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
    used = {p.name: at_import(p.read_text(encoding="utf-8")) & ABSENT_ON_WINDOWS for p in files}
    assert not {name: names for name, names in used.items() if names}


def test_what_is_used_at_import_is_found():
    source = "import signal, os\n@mark(signal.SIGKILL)\ndef f():\n    os.fork()\n    import pwd\n"
    assert at_import(source) & ABSENT_ON_WINDOWS == {"SIGKILL"}
    assert at_import("import resource\nx = [lambda: os.fork()]") & ABSENT_ON_WINDOWS == {"resource"}


# -- notebooks ----------------------------------------------------------------------------------


def test_a_lesson_wants_the_core_of_its_own_project(tmp_path, monkeypatch):
    other = tmp_path / "other"
    (other / "core" / "lessons").mkdir(parents=True)
    (other / "notebooks" / "exercises").mkdir(parents=True)
    for folder in (other / "notebooks", other / "notebooks" / "exercises"):
        monkeypatch.chdir(folder)
        with pytest.raises(ImportError, match="pip install -e"):
            lessons.style()
    for folder in (ROOT / "notebooks", ROOT / "notebooks" / "solutions", tmp_path):
        monkeypatch.chdir(folder)
        lessons.style()
    assert np.get_printoptions()["precision"] == 4
