"""The workbook: the file that ``new`` writes, the road that ``check`` tells, what is watched."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.gradient_check.case import our_function
from core.gradient_check.cases import CASES
from core.gradient_check.learner import load_implementation
from core.gradient_check.source import parse_source, read_source
from core.support.choices import MODEL_NAMES
from core.workbook import blank
from core.workbook.new import workbook
from core.workbook.page import Page
from core.workbook.road import FUNCTIONS, ROAD, chapter_of
from core.workbook.worth import WORTH, notebook_of

ROOT = Path(__file__).resolve().parent.parent
MASTERS = ROOT / "notebooks" / "masters"
SOLUTIONS = (ROOT / "tests" / "solutions.py").read_text(encoding="utf-8")
BACKWARDS = [name for name in FUNCTIONS if name.endswith("_backward")]
EMPTY = "    raise NotImplementedError\n"


def written(text: str, *names: str, **changed: str) -> str:
    """A workbook with solutions in the place of these empty functions, or other code by name.

    Their helpers go to its end.
    """
    solutions = {node.name: node for node in ast.parse(SOLUTIONS).body if hasattr(node, "name")}
    code = {name: ast.unparse(solutions[name]) for name in names} | changed
    for name, function in code.items():
        start = re.search(rf"^def {name}\(", text, re.MULTILINE).start()
        end = text.index(EMPTY, start) + len(EMPTY)
        text = text[:start] + function + "\n" + text[end:]
    helpers = [
        ast.unparse(node)
        for node in ast.parse(SOLUTIONS).body[1:]
        if getattr(node, "name", None) not in FUNCTIONS
    ]
    return "\n\n".join([text, *helpers])


# -- the road ----------------------------------------------------------------------------------


def test_the_road_has_every_function_once_and_a_lesson_for_each():
    assert len(set(FUNCTIONS)) == len(FUNCTIONS)
    for function in FUNCTIONS:
        assert callable(getattr(blank, function))
    assert [chapter.number for chapter in ROAD] == sorted(chapter.number for chapter in ROAD)
    for chapter in ROAD:
        assert (ROOT / "notebooks" / chapter.lesson).is_file()
        first = (MASTERS / chapter.lesson).with_suffix(".py").read_text(encoding="utf-8")
        assert f"# # {chapter.number} · {chapter.title}\n" in first
        assert chapter.models
        assert set(chapter.models) <= set(MODEL_NAMES)


def test_the_road_has_all_that_the_check_knows_but_whole_models():
    checked = {name for case in CASES for name in case.functions if not name[0].isupper()}
    assert checked <= set(FUNCTIONS)


def test_what_is_worth_knowing_is_in_a_section_of_the_lesson():
    assert tuple(WORTH) == FUNCTIONS
    for function, (heading, sentence) in WORTH.items():
        lesson = (MASTERS / notebook_of(function)).with_suffix(".py")
        assert int(lesson.name[:2]) == chapter_of(function).number
        text = lesson.read_text(encoding="utf-8")
        assert re.search(rf"^# #+ {re.escape(heading)}$", text, re.MULTILINE), function
        assert sentence.endswith((".", "?"))
        assert len(sentence) < 160
    assert len({sentence for _, sentence in WORTH.values()}) == len(FUNCTIONS)


# -- new ---------------------------------------------------------------------------------------


def test_new_writes_every_function_in_order_and_empty(command, tmp_path):
    code, out, _ = command("core.workbook", "new", "mine.py")
    assert code == 0
    assert f"{len(FUNCTIONS)} functions" in out
    assert "watch mine.py" in out
    text = (tmp_path / "mine.py").read_bytes().decode("utf-8")
    source = read_source(tmp_path / "mine.py")
    assert [name for name in source.lines if name in FUNCTIONS] == list(FUNCTIONS)
    assert source.empty == set(FUNCTIONS)
    assert load_implementation(tmp_path / "mine.py") == {}
    ast.parse(text, feature_version=(3, 10))
    for chapter in ROAD:
        assert f"Lesson {chapter.number}: {chapter.title}        notebooks/{chapter.lesson}" in text
    for says in ("watch mine.py", "check mine.py", "--engine plain", "--impl mine.py"):
        assert says in text[:1000]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_is_ours(name):
    def of(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    assert of(getattr(blank, name)) == of(our_function(name))
    assert inspect.getdoc(getattr(blank, name)).count("Returns") == 1


def test_new_says_nothing_of_a_backward():
    text = workbook("mine.py")
    for name in BACKWARDS:
        documentation = inspect.getdoc(getattr(blank, name))
        assert not re.search(r"[=@*]|sum|\^|\.T\b|transpos", documentation), name
        code = inspect.getsource(our_function(name)).split('"""')[-1]
        for line in code.splitlines():
            if re.search(r" [-+*@/]?=? ?= | [@*] ", line) and "# " not in line:
                assert line.strip() not in text, line
    for loss in ("temporal_softmax_loss", "doubly_stochastic_loss"):
        assert not re.search(r"\bd(x|weights)\b.*=", inspect.getdoc(getattr(blank, loss)))


def test_new_never_overwrites(refuses, tmp_path):
    (tmp_path / "mine.py").write_text("x = 1")
    refuses("core.workbook", "new", "mine.py", says=("mine.py", "not overwritten"))
    assert (tmp_path / "mine.py").read_text() == "x = 1"
    if os.name != "nt":
        (tmp_path / "link.py").symlink_to("nowhere.py")
        refuses("core.workbook", "new", "link.py", says=("link.py", "not overwritten"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py") == []


def test_new_refuses_names_that_do_not_work(refuses):
    refuses("core.workbook", "new", "mine.txt", says=("mine.txt", ".py"))
    refuses("core.workbook", "new", "random.py", says=("random.py", "hide"))
    refuses("core.workbook", "new", "numpy.py", says=("numpy.py", "hide"))
    refuses("core.workbook", "new", "nowhere/mine.py", says=("nowhere", "make it first"))
    refuses("core.workbook", "new", "mine.py", "--only", "gru", says=("gru", "lstm (6)"))
    refuses("core.workbook", "new", "mine.py", "--only", "rnn", "--from", "rnn", says=("--from",))
    refuses("core.workbook", says=("COMMAND",))


def chapters_in(path: Path) -> list[str]:
    empty = read_source(path).empty
    return [chapter.name for chapter in ROAD if empty & set(chapter.functions)]


def test_a_fast_track_has_some_chapters(command, tmp_path):
    assert command("core.workbook", "new", "a.py", "--only", "lstm")[0] == 0
    assert chapters_in(tmp_path / "a.py") == ["lstm"]
    assert command("core.workbook", "new", "b.py", "--only", "9,rnn")[0] == 0
    assert chapters_in(tmp_path / "b.py") == ["rnn", "heads"]
    assert command("core.workbook", "new", "c.py", "--from", "attention")[0] == 0
    names = [chapter.name for chapter in ROAD]
    assert chapters_in(tmp_path / "c.py") == names[names.index("attention") :]
    # what a chapter uses of those that are left out is ours, and not taken for the learner's
    assert "import lstm_step_backward, lstm_step_forward" in (tmp_path / "c.py").read_text()
    assert load_implementation(tmp_path / "c.py") == {}


# -- the text of a file ------------------------------------------------------------------------

TEXT = '''
import numpy as np

def sigmoid(x):
    return x

def a_forward(x):
    """Words."""
    return sigmoid(x)

def a_backward(dout, cache):
    raise NotImplementedError("soon")

def b_forward(x):
    return a_forward(x)

def c_forward(x):
    ...
'''


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("Words.", "Other words.", set()),
        ("    return x\n", "    return x  # a comment\n", set()),
        ("    return x\n", "    return -x\n", {"sigmoid", "a_forward", "b_forward"}),
        ("a_forward(x)\n", "-a_forward(x)\n", {"b_forward"}),
        ('("soon")', "", {"a_backward"}),
        ("    ...\n", "    return eval('sigmoid')(x)\n", {"c_forward"}),
        (
            "import numpy as np",
            "import numpy",
            {"sigmoid", "a_forward", "a_backward", "b_forward", "c_forward"},
        ),
        ("def b_forward", "def d_forward", {"b_forward", "d_forward"}),
    ],
)
def test_what_a_change_reaches(before, after, changed):
    old = parse_source("a.py", TEXT.encode())
    assert old.empty == {"a_backward", "c_forward"}
    new = parse_source("a.py", TEXT.replace(before, after, 1).encode())
    assert new.changed_since(old) == changed


def test_what_reaches_names_by_their_text_depends_on_all():
    text = TEXT + "\ndef d_forward(x):\n    return globals()['sigmoid'](x)\n"
    old, new = (parse_source("a", t.encode()) for t in (text, text.replace("return x", "return 2")))
    assert "d_forward" in new.changed_since(old)


def test_what_the_module_uses_reaches_all():
    text = TEXT + "\nd_forward = wrapped(sigmoid)\n"
    old, new = (parse_source("a", t.encode()) for t in (text, text.replace("return x", "return 2")))
    assert new.changed_since(old) == set(old.code)
    assert old.lines["d_forward"] == len(text.splitlines())


# -- check -------------------------------------------------------------------------------------


def test_check_of_an_empty_file_says_where_to_begin(command, tmp_path):
    command("core.workbook", "new", "mine.py")
    code, out, _ = command("core.workbook", "check", "mine.py")
    assert code == 1
    assert f"0 of {len(FUNCTIONS)} hold, {len(FUNCTIONS)} empty" in out
    line = read_source(tmp_path / "mine.py").lines["affine_forward"]
    assert f"affine_forward is empty, mine.py:{line}" in out
    assert "03_affine_embedding_softmax.ipynb" in out
    assert "\x1b" not in out


def test_check_goes_green_function_by_function(command, tmp_path):
    path, text = tmp_path / "mine.py", workbook("mine.py", [c for c in ROAD if c.name == "rnn"])
    functions = "rnn_step_forward rnn_step_backward rnn_forward rnn_backward".split()
    for count in (1, 3):
        path.write_text(written(text, *functions[:count]), encoding="utf-8")
        code, out, _ = command("core.workbook", "check", "mine.py")
        assert code == 1
        assert f"{count} of 4 hold, {4 - count} empty" in out
        assert f"right: {', '.join(functions[:count])}" in out
        assert f"{functions[count]} is empty, mine.py:{line_of(path, functions[count])}" in out
        assert "1 of the 8 chapters" in " ".join(out.split())
    path.write_text(written(text, *functions), encoding="utf-8")
    code, out, _ = command("core.workbook", "check", "mine.py")
    assert code == 0
    assert "All 4 hold" in out
    assert "training.py --model rnn --engine plain --num_samples 50 --impl mine.py" in out


def line_of(path: Path, function: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return 1 + next(i for i, line in enumerate(lines) if line.startswith(f"def {function}("))


@pytest.mark.slow
def test_all_solutions_hold(command, tmp_path):
    (tmp_path / "mine.py").write_text(written(workbook("mine.py"), *FUNCTIONS), encoding="utf-8")
    code, out, _ = command("core.workbook", "check", "mine.py")
    assert code == 0, out
    assert f"{len(FUNCTIONS)} of {len(FUNCTIONS)} hold" in out
    for chapter in ROAD:
        assert f"{chapter.title}: all {len(chapter.functions)} hold" in out


WRONG = """
def affine_forward(x, w, b):
    print("hello")
    return x.reshape(len(x), -1) @ w + b, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    return (dout @ w.T).reshape(x.shape), -x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)
"""


def test_check_answers_the_first_wrong_one_with_its_line_and_hints(command, tmp_path):
    (tmp_path / "mine.py").write_text(WRONG)
    code, out, _ = command("core.workbook", "check", "mine.py")
    assert code == 1
    assert "1 of 7 hold, 1 wrong, 5 empty" in out
    assert "not in the file: temporal_affine_forward" in " ".join(out.split())
    assert "affine_backward, mine.py:7" in out
    assert "dw has the wrong sign" in out
    assert "--hint 2" in out
    assert out.count("    hello\n") == 5  # of many
    _, out, _ = command("core.workbook", "check", "mine.py", "--hint", "3")
    assert "--hint" not in out
    assert "Hint 2" in out
    assert "Hint 3" in out


def test_a_function_that_ends_the_process_stops_no_other_check(command, tmp_path):
    ends = "import os\n\n\ndef affine_backward(dout, cache):\n    os._exit(3)\n\n\n"
    other = "def word_embedding_forward(x, W):\n    return W[x], (x, W)\n"
    (tmp_path / "mine.py").write_text(ends + other)
    code, out, _ = command("core.workbook", "check", "mine.py")
    assert code == 1
    assert "right: word_embedding_forward" in out
    assert "affine_backward, mine.py:4" in out
    assert "ended the process (exit code 3) in a call of affine_backward" in " ".join(out.split())


def test_check_refuses_what_it_cannot_read(refuses, tmp_path):
    def file(text):
        (tmp_path / "mine.py").write_text(text)
        return "core.workbook", "check", "mine.py"

    refuses("core.workbook", "check", "no.py", says=("no.py", "core.workbook new no.py"))
    refuses("core.workbook", "check", ".", says=("folder",))
    refuses(*file("def f(:"), says=("mine.py", "line 1"))
    refuses(*file("x = 1\nimport nothing_of_that_name"), says=("mine.py", "line 2"))
    refuses(*file("x = 1"), says=("mine.py", "affine_forward"))


# -- what is printed ---------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class OldTerminal(Terminal):
    encoding = "ascii"


def test_colours_are_for_terminals_and_for_those_who_want_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    page = Page(Terminal())
    page.say("holds", "green", "✓")
    assert page.stream.getvalue() == "\x1b[32m✓\x1b[0m holds\n"
    monkeypatch.setenv("NO_COLOR", "1")
    page = Page(OldTerminal())
    page.say("holds", "green", "✓")
    assert page.stream.getvalue() == "+ holds\n"
    page = Page(io.StringIO())
    page.passing_by("checking ...")
    page.say("holds", "green")
    assert page.stream.getvalue() == "holds\n"


def test_a_narrow_terminal_gets_narrow_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    page = Page(Terminal())
    page.say("one two three four five six seven eight nine", mark="✓", indent=4)
    lines = page.stream.getvalue().splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) < 20


# -- watch -------------------------------------------------------------------------------------


class Watched:
    """``watch`` of a file in a process of its own: what it prints, in a terminal or a pipe."""

    def __init__(self, path: Path, columns: int | None):
        self.path, self.all = path, ""
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
        env |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        options = {"cwd": path.parent, "env": env, "start_new_session": True}
        if os.name != "nt":  # a shell's background jobs ignore Ctrl-C, and so do their children
            options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        command = [sys.executable, "-m", "core.workbook", "watch", self.path.name]
        if columns is None:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=2, **options
            )
            self.out = self.process.stdout.fileno()
            return
        self.out, inside = os.openpty()
        self.resize(columns)
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, **options
        )
        self.inside = inside

    def resize(self, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.out, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def save(self, text: str) -> None:
        """As most editors do: another file takes the name."""
        self.path.with_suffix(".new").write_text(text, encoding="utf-8")
        self.path.with_suffix(".new").replace(self.path)

    def press(self, key: str) -> None:
        os.write(self.out, key.encode())

    def until(self, *words: str, seconds: float = 30) -> str:
        """What is printed until all the words are, without colours and what passes by."""
        raw, found, end = "", "", time.monotonic() + seconds
        while not all(word in " ".join(found.split()) for word in words):
            assert time.monotonic() < end, found
            if select.select([self.out], [], [], 0.1)[0]:
                more = os.read(self.out, 65536).decode()
                assert more, found
                self.all += more
                raw += more
                shown = re.sub(r"[^\n]*\r\x1b\[K", "", raw)
                found = re.sub(r"\x1b\[\d+m|\r", "", shown)
        return found


@contextmanager
def watched(path: Path, columns: int | None = None):
    found = Watched(path, columns)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        os.close(found.out) if columns else found.process.stdout.close()


posix = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")


@posix
def test_watch_in_a_terminal(tmp_path):
    import termios

    text = workbook("mine.py")
    right = {
        "affine_forward": "def affine_forward(x, w, b):\n"
        "    return x.reshape(len(x), -1) @ w + b, (x, w)\n",
        "affine_backward": WRONG[WRONG.index("def affine_backward") :].replace("-x", "x"),
    }
    wrong = right | {"affine_backward": right["affine_backward"].replace(", x", ", -x")}
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with watched(tmp_path / "mine.py", columns=80) as watch:
        before = termios.tcgetattr(watch.inside)
        out = watch.until("q quit")
        assert f"0 of {len(FUNCTIONS)} hold" in out
        assert "affine_forward is empty, mine.py:" in out
        assert "\x1b[" in watch.all

        watch.save(written(text, **wrong))  # edit, save, answer
        started = time.monotonic()
        out = watch.until("affine_forward holds", "dw has the wrong sign", "q quit")
        print(f"answered after {time.monotonic() - started:.2f} s")
        assert WORTH["affine_forward"][1] in " ".join(out.split())
        assert "1 of 47 hold, 1 wrong" in out

        watch.press("h")
        watch.until("Hint 2")
        watch.press("h")
        watch.until("Hint 3")
        watch.press("h")
        watch.until("these are all")
        watch.press("s")
        watch.until("y / n")
        watch.press("n")
        watch.press("s")
        watch.until("y / n")
        watch.press("y")
        watch.until("def affine_backward", "return dx, dw, db")
        watch.press("\x1b[A")  # an arrow is no key of ours
        watch.press("n")
        watch.until("temporal_affine_forward is empty")
        watch.press("l")
        watch.until("wrong: affine_backward", "Lesson 11")

        watch.path.write_text("")  # an editor that empties the file, then writes it
        time.sleep(0.1)
        watch.path.write_text(written(text, **right), encoding="utf-8")
        out = watch.until("affine_backward holds", "2 of 47 hold", "q quit")
        assert "line" not in out

        watch.save(written(text, **right) + "def f(:\n")
        watch.until("mine.py: line")
        watch.path.unlink()
        watch.until("mine.py is not there")

        watch.resize(20)
        watch.save(written(text, **wrong))
        out = watch.until("dw has the wrong sign", "q quit")
        for line in out.splitlines():
            assert len(line) < 20 or " " not in line.strip(), line

        assert termios.tcgetattr(watch.inside) != before
        watch.press("q")
        assert watch.process.wait(timeout=30) == 0
        assert termios.tcgetattr(watch.inside) == before


def test_watch_refuses_what_is_not_there(refuses, tmp_path):
    refuses("core.workbook", "watch", "no.py", says=("no.py", "core.workbook new no.py"))
    (tmp_path / "other.py").write_text("x = 1")
    refuses("core.workbook", "watch", "other.py", says=("other.py", "affine_forward"))
