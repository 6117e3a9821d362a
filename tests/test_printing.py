"""Printing never ends a command: a reader that goes away, a console that cannot show a name, no
stdout at all. Files are written first."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, in_folder, main_of, make_tiny_folder
from PIL import Image

from core.support.command_line import run_command

SMALL = ("--model", "rnn", "--hidden_dim", 8, "--wordvec_dim", 8)


@pytest.fixture(scope="module")
def run_on_shapes(tmp_path_factory, shapes_folder):
    folder = tmp_path_factory.mktemp("shapes_run")
    with in_folder(folder) as command:
        command("training.py", *SMALL, "--num_samples", 4, "--num_epochs", 1, "--out", "run")
    return folder / "run"


@contextmanager
def stdout_to(number: int, monkeypatch, encoding="utf-8", name="stdout"):
    """sys.stdout as Python opens it for a file descriptor."""
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        yield stream


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def exit_code(name, *arguments) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_command(main_of(name.removesuffix(".py")))
    return stop.value.code


def code_of(main) -> int:
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    return stop.value.code


def printed_to_file(tmp_path, monkeypatch, encoding, main) -> bytes:
    with (
        open(tmp_path / "printed", "wb") as file,
        stdout_to(file.fileno(), monkeypatch, encoding),
    ):
        assert code_of(main) == 0
    return (tmp_path / "printed").read_bytes()


# ---------------------------------------------------------------------------------------------
# A reader that goes away
# ---------------------------------------------------------------------------------------------


def test_what_was_asked_for_is_written_though_nobody_reads(run_on_shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text('[{"caption": "of an OLD run"}]')
    with stdout_to(closed_pipe(), monkeypatch):
        files = "--out", "c.json", "--report", "r.html", "--figure", "f.png"
        options = "--split", "val", "--num_samples", 200, "--decode", "greedy"
        assert exit_code("inference.py", "--checkpoint", run_on_shapes, *options, *files) == 0
    assert len(json.loads(Path("c.json").read_text())) == 200
    assert Path("r.html").read_text().rstrip().endswith("</html>")
    assert Image.open("f.png").width > 500


def test_a_training_goes_on_to_its_end(shapes_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with stdout_to(closed_pipe(), monkeypatch):
        short = "--num_samples", 4, "--num_epochs", 30, "--out", "run"
        assert exit_code("training.py", *SMALL, *short) == 0
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 30


def test_a_check_that_fails_says_so_in_its_code(monkeypatch):
    def fails() -> int:
        for number in range(100_000):
            print(number)
        return 1

    with stdout_to(closed_pipe(), monkeypatch):
        assert code_of(fails) == 1


@pytest.mark.parametrize(
    "how", ["| head -1", "2>&1 | head -1", "| true", ">&-", ">&- 2>&-", "2>&-"]
)
@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_in_a_shell(tmp_path, how):
    (tmp_path / "c.py").write_text(
        "from core.support.command_line import run_command\n"
        "def main():\n"
        "    for number in range(20_000):\n"
        "        print(number, '\\u5199\\u771f', '\\udce9')\n"
        "    open('done', 'w').close()\n"
        "run_command(main)\n"
    )
    for unbuffered in ("", "1"):
        done = subprocess.run(
            ["bash", "-c", f"'{sys.executable}' c.py {how}; exit ${{PIPESTATUS[0]}}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        (tmp_path / "done").unlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full disk")
def test_a_full_disk_is_no_success(tmp_path, monkeypatch, capsys):
    def main():
        print("scores")
        (tmp_path / "done").touch()

    with open("/dev/full", "wb") as full, stdout_to(full.fileno(), monkeypatch):
        assert code_of(main) == 2
    assert (tmp_path / "done").exists()
    error = capsys.readouterr().err
    assert "stdout: not all could be printed (No space left on device)" in error
    assert error.count("\n") == 1


def test_an_error_keeps_its_code_where_stderr_cannot_be_written(monkeypatch):
    def main():
        raise ValueError("x: no such thing")

    with stdout_to(closed_pipe(), monkeypatch, name="stderr"):
        assert code_of(main) == 2
    monkeypatch.setattr(sys, "stderr", None)
    assert code_of(main) == 2


# ---------------------------------------------------------------------------------------------
# A console that cannot show a name
# ---------------------------------------------------------------------------------------------

NAMES = "写真 café \udce9 \N{DOG FACE}"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "写真 café \\udce9 \N{DOG FACE}"),
        ("ascii", r"\u5199\u771f caf\xe9 \udce9 \U0001f436"),
        ("cp1252", r"\u5199\u771f café \udce9 \U0001f436"),
        ("cp437", r"\u5199\u771f café \udce9 \U0001f436"),
    ],
)
def test_a_name_is_printed_with_escapes(tmp_path, monkeypatch, encoding, expected):
    printed = printed_to_file(tmp_path, monkeypatch, encoding, lambda: print(NAMES))
    assert printed.decode(encoding).rstrip("\r\n") == expected


def test_photos_of_any_name_are_captioned(run_on_shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    names = ["写真.png", "caf\udce9.png"]  # the second is café in the bytes of Latin-1
    for name in names:
        try:
            Image.new("RGB", (40, 30)).save(Path("in") / name)
        except (OSError, UnicodeEncodeError):
            pytest.skip("the file system takes no such name")
    with open("printed", "wb") as file, stdout_to(file.fileno(), monkeypatch, "ascii"):
        files = "--out", "x.json", "--report", "r.html"
        assert (
            exit_code("inference.py", "--checkpoint", run_on_shapes, "--images", "in", *files) == 0
        )
    found = {row["file_name"] for row in json.loads(Path("x.json").read_text("utf-8"))}
    assert found == {str(Path("in") / name) for name in names}, "to be found again by these names"
    assert r"caf\udce9.png" in Path("r.html").read_text("utf-8")
    assert rb"\u5199\u771f.png" in Path("printed").read_bytes()


# ---------------------------------------------------------------------------------------------
# Each file by itself
# ---------------------------------------------------------------------------------------------


def test_a_file_that_fails_takes_nothing_with_it(command, tmp_path, monkeypatch):
    make_tiny_folder(tmp_path / "tiny")
    code, _, error = command(
        "training.py", *SMALL, "--num_epochs", 1, "--data", "tiny", "--out", "run"
    )
    assert code == 0, error

    def fails(*_):
        raise OSError("f.png: no space")

    monkeypatch.setattr("core.show.plots.plot_captions", fails)
    code, out, error = command(
        "inference.py", "--checkpoint", "run", "--out", "c.json", "--figure", "f.png"
    )
    assert code == 2
    assert "f.png: no space" in error
    assert len(json.loads((tmp_path / "c.json").read_text())) == 5
    assert "captions: c.json" in out
    assert "val4.png" in out, "what was found is printed all the same"
    assert "picture:" not in out


def test_two_pictures_need_two_names(refuses):
    files = "--figure", "f.png", "--attention", "./f.png"
    refuses("inference.py", "--model", "attention", *files, says=("--attention", "--figure"))
