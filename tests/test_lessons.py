"""What the notebooks rely on: answers to exercises, hints, notebooks made from their masters."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import jupytext
import numpy as np
import pytest

from core import lessons, rnn_layers
from core.gradient_check import check
from core.lessons import compare, confirm, watched, with_slips

ROOT = Path(__file__).resolve().parent.parent


def slip(name: str, *changes: tuple[str, str]):
    """Our function with some of its lines changed: a learner's, with a classic mistake."""
    source = inspect.getsource(getattr(rnn_layers, name))
    for right, wrong in changes:
        assert right in source
        source = source.replace(right, wrong)
    namespace = dict(vars(rnn_layers))
    exec(source, namespace)
    return namespace[name]


# ---------------------------------------------------------------------------------------------
# Each classic mistake has a hint of its own
# ---------------------------------------------------------------------------------------------

MISTAKES = {
    "transposed product": (
        "rnn_step_backward", [("da @ Wh.T", "da @ Wh")],
        "dprev_h comes from a transposed product",
    ),
    "no sum over the batch": (
        "rnn_step_backward", [("da.sum(axis=0)", "da")],
        "is the sum over the batch missing?",
    ),
    "one sample of the batch": (
        "rnn_step_backward", [("x.T @ da", "x[:1].T @ da[:1]")],
        "dWx holds the first sample alone: the sum over the batch is missing",
    ),
    "upstream forgotten": (
        "rnn_step_backward", [("dnext_h * (1", "(1")],
        "is the upstream factor dnext_h forgotten?",
    ),
    "one of two upstream forgotten": (
        "lstm_step_backward", [("dnext_c + dnext_h * o", "dnext_h * o")],
        "does not use dnext_c: is the upstream factor dnext_c forgotten?",
    ),
    "gates in another order": (
        "lstm_step_backward", [("[da_i, da_f, da_o, da_g]", "[da_f, da_i, da_o, da_g]")],
        "dx has its gates swapped: the blocks are in the order i, f, o, g",
    ),
    "gates in another order in the weights": (
        "lstm_step_backward",
        [("dWx = x.T @ da", "dWx = x.T @ np.concatenate([da_i, da_o, da_f, da_g], axis=1)")],
        "dWx has its gates swapped: the blocks are in the order i, f, o, g",
    ),
    "tanh for its derivative": (
        "rnn_step_backward", [("(1 - next_h**2)", "next_h")],
        "is what tanh gives where its derivative belongs: 1 - tanh^2",
    ),
    "no square": (
        "rnn_step_backward", [("(1 - next_h**2)", "(1 - next_h)")],
        "is what 1 - tanh gives, where 1 - tanh^2 belongs",
    ),
    "no derivative": (
        "rnn_step_backward", [(" * (1 - next_h**2)", "")],
        "misses the derivative of the tanh",
    ),
    "a gate for its derivative": (
        "lstm_step_backward", [("di * i * (1 - i)", "di * i")],
        "is what a gate gives, where i (1 - i) belongs",
    ),
    "tanh's derivative for a gate": (
        "lstm_step_backward", [("df * f * (1 - f)", "df * (1 - f**2)")],
        "has tanh's derivative where a sigmoid's belongs",
    ),
    "in place": (
        "rnn_step_backward",
        [("da = dnext_h * (1 - next_h**2)", "dnext_h *= 1 - next_h**2; da = dnext_h")],
        "writes into dnext_h",
    ),
    "sign": ("rnn_step_backward", [("dWx = x.T", "dWx = -x.T")], "dWx has the wrong sign"),
    "mean for sum": ("affine_backward", [("dx = (dout", "dx = 0.5 * (dout")], "a factor lost"),
    "repeated words lost": (
        "word_embedding_backward",
        [("np.add.at(dW, x, dout)", "dW[x] += dout")],
        "dW keeps the last use of each word alone: repeats add up",
    ),
    "blank": (
        "lstm_step_backward", [("x, prev_h, prev_c, Wx, Wh, i, f, o, g, tanh_c = cache", "return")],
        "returned None: is it written yet",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_each_classic_mistake_has_its_hint(name, changes, hint):
    report = check(name, slip(name, *changes))
    assert not report
    text = " ".join(repr(report).split())
    assert f"{name} does not hold yet" in text
    assert hint in text
    assert "check(..., hint=2)" in text


@pytest.mark.parametrize("name", ["affine_backward", "rnn_step_backward", "lstm_step_backward"])
def test_right_functions_hold(name):
    report = check(name, getattr(rnn_layers, name))
    assert report
    assert f"{name} holds" in repr(report)
    assert "WRONG" not in repr(report)


def test_a_pair_of_ones_own():
    def forward(x, w, b):
        return x.reshape(len(x), -1) @ w + b, {"x": x, "w": w}  # a cache that ours does not know

    def backward(dout, cache):
        x, w = cache["x"], cache["w"]
        return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)

    assert check("affine_backward", backward, forward=forward)
    assert check("affine_forward", forward)
    assert not check("affine_backward", backward)


def test_hints_say_more_step_by_step():
    wrong = slip(
        "lstm_step_backward", ("df, dprev_c = dc * prev_c, dc * f", "df, dprev_c = dc, dc")
    )
    one, two, three = (repr(check("lstm_step_backward", wrong, hint=hint)) for hint in (1, 2, 3))
    assert "Hint 2" not in one
    assert "Hint 2" in two
    assert "Hint 3" not in two
    assert "Hint 2" in three
    assert "Hint 3: our code says" in three
    wrong = slip(
        "lstm_step_backward", ("dprev_c = dc * prev_c, dc * f", "dprev_c = dc * prev_c, dc")
    )
    three = repr(check("lstm_step_backward", wrong, hint=3))
    assert "dprev_c comes from this line of the forward: next_c = f * prev_c + i * g" in three
    assert "df, dprev_c = dc * prev_c, dc * f" in three


def test_check_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="found 'lstm_stop', expected one of"):
        check("lstm_stop", len)
    with pytest.raises(ValueError, match="hint=4"):
        check("affine_backward", rnn_layers.affine_backward, hint=4)


# ---------------------------------------------------------------------------------------------
# Answers to other exercises
# ---------------------------------------------------------------------------------------------


def test_compare_says_what_is_wrong():
    x = np.arange(6.0).reshape(2, 3)

    def into(x):
        x += 1
        return x

    def torn(x):
        raise KeyError("nothing there")

    assert compare(lambda x: x + 1, lambda x: x + 1, x)
    for function, sentence in (
        (lambda x: None, "returned None"),
        (lambda x: x.T + 1, "returned shape (3, 2), expected (2, 3)"),
        (
            lambda x: x + np.eye(2, 3),
            "is wrong at 4 of 6 places, first at [0, 1]: got 1, expected 2",
        ),
        (lambda x: np.nan * x, "is NaN at 6 of 6 places, first at [0, 0]"),
        (lambda x: "no", "returned a text, expected an array of shape (2, 3)"),
        (torn, "raised KeyError: 'nothing there' (line"),
        (into, "writes into what it was given"),
    ):
        answer = compare(function, lambda x: x + 1, x)
        assert not answer
        assert sentence in repr(answer)
    assert np.array_equal(x, np.arange(6.0).reshape(2, 3))
    assert compare(lambda x, y: 1.0, lambda x, y: 1.0, np.array([1.0, np.nan]), {"a": [x]})
    assert not compare(lambda y: into(y["a"][0]).sum(), lambda y: y["a"][0].sum() + 6, {"a": [x]})


def test_compare_looks_into_tuples_and_dicts():
    assert compare(lambda: (1.0, {"a": [2, "b"]}), lambda: (1.0, {"a": [2, "b"]}))
    answer = compare(lambda: (1.0, {"a": 2}), lambda: (1.0, {"a": 3}))
    assert "[1] ['a'] returned 2, which is one too few" in repr(answer)
    assert "has the key 'b' too many; lacks the key 'a'" in repr(
        compare(lambda: {"b": 1}, lambda: {"a": 1})
    )
    assert "returned 1 values, expected 2" in repr(compare(lambda: (1,), lambda: (1, 2)))


def test_confirm():
    assert confirm(0.3, lambda loss: loss < 0.5, "a loss below 0.5")
    assert "found 0.7, expected a loss below 0.5" in repr(
        confirm(0.7, lambda loss: loss < 0.5, "a loss below 0.5")
    )
    for nothing in (None, ...):
        assert "no answer yet" in repr(confirm(nothing, lambda x: x > 0, "more than 0"))
    assert "TypeError" in repr(confirm("text", lambda x: x > 0, "more than 0"))


def test_trained_runs_are_there_and_small():
    for name in ("rnn", "lstm", "attention", "transformer"):
        model, history = lessons.load_trained(name)
        assert model.params
        assert history[-1]["val_loss"] < history[0]["val_loss"]
        assert (lessons.TRAINED / name / "best.npz").stat().st_size < 2.5e6


# ---------------------------------------------------------------------------------------------
# The notebooks
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["build"] = module
    spec.loader.exec_module(module)
    return module


LESSONS = sorted((ROOT / "notebooks" / "masters").glob("[0-9][0-9]_*.py"))
DEEPER = sorted((ROOT / "notebooks" / "masters").glob("[0-9][0-9]b_*.py"))


def test_there_are_fourteen_lessons_and_a_start():
    assert [path.name[:2] for path in LESSONS] == [f"{n:02}" for n in range(15)]


@pytest.mark.parametrize("number", range(1, len(LESSONS)))
def test_each_lesson_has_three_exercises_with_what_goes_deeper(build, number):
    asked = 0
    for master in (*LESSONS, *DEEPER):
        notebooks = build.notebooks_of(master)
        if int(master.name[:2]) == number and "exercises" in notebooks:
            cells = notebooks["exercises"].cells
            here = sum(cell.source.count("### Exercise") for cell in cells)
            assert sum("your code here" in cell.source for cell in cells) >= here
            asked += here
    assert asked == 3


@pytest.mark.parametrize("master", [*LESSONS, *DEEPER], ids=lambda path: path.stem)
def test_notebooks_are_what_their_master_says(build, master):
    import nbformat

    notebooks = build.notebooks_of(master)
    for kind, path in build.paths_of(master.stem).items():
        if kind not in notebooks:
            assert not path.exists()
            continue
        committed = nbformat.read(path, as_version=4)
        nbformat.validate(committed)
        assert [c.source for c in committed.cells] == [c.source for c in notebooks[kind].cells]
        assert path.stat().st_size < build.LARGEST
        text = "\n".join(cell.source for cell in committed.cells)
        assert "SOLUTION" not in text
        prose = "\n".join(c.source for c in committed.cells if c.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


MOST_WORDS = 2_500  # about 45 minutes with a pencil
MOST_LINES = 15  # of a cell that is not folded


@pytest.mark.parametrize("master", [*LESSONS, *DEEPER], ids=lambda path: path.stem)
def test_a_lesson_fits_into_a_sitting(build, master):
    words, asked = 0, set()
    for cell in jupytext.read(master, fmt="py:percent").cells:
        tags = set(cell.metadata.get("tags", []))
        asked |= tags
        if cell.cell_type == "markdown" and "exercise" not in tags:
            words += len(re.sub(r"\$\$.*?\$\$", "", cell.source, flags=re.DOTALL).split())
        if cell.cell_type == "code" and not tags & {"setup", "hide-input", "exercise"}:
            seen = build._SOLUTION.sub(build._BLANK, cell.source)
            assert len(seen.split("\n")) <= MOST_LINES, seen
    assert words <= MOST_WORDS
    if master in LESSONS[1:]:
        assert "task" in asked, "nothing for the reader to write"


@pytest.mark.parametrize("master", LESSONS[1:], ids=lambda path: path.stem)
def test_the_minutes_of_a_lesson_are_the_same_on_every_page(master):
    first = master.read_text(encoding="utf-8").partition("\n# %%")[0].partition("\n# %%")[0]
    minutes = re.search(r"[Aa]bout (\d+) minutes", " ".join(first.split("\n# ")))[1]
    for page in (ROOT / "README.md", LESSONS[0]):
        [row] = re.findall(
            rf"^.*\({'notebooks/' * (page.suffix == '.md')}{master.stem}\.ipynb\) \|.*$",
            page.read_text(encoding="utf-8"),
            re.M,
        )
        assert row.removeprefix("# ").split(" | ")[3] == minutes, f"{page.name}: {row}"


MASTER = """\
# %% [markdown]
# # 99 · A lesson

# %% tags=["setup"]
import numpy as np
from core.lessons import compare

# %%
print(1)

# %% [markdown] tags=["exercise"]
# ### Exercise 1

# %% tags=["exercise"]
def twice(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION


compare(twice, lambda x: x + x, 3.0)
"""


@pytest.fixture
def notebooks(build, tmp_path):
    master = tmp_path / "99_a_lesson.py"
    master.write_text(MASTER, encoding="utf-8")
    return build.notebooks_of(master)


def test_one_master_three_notebooks(notebooks):
    sources = {kind: [cell.source for cell in n.cells] for kind, n in notebooks.items()}
    assert "print(1)" in sources["lessons"]
    assert "print(1)" not in sources["exercises"]
    assert not any("def twice" in source for source in sources["lessons"])
    assert "def twice(x):\n    return 2 * x\n\n\ncompare" in sources["solutions"][-1]
    assert "def twice(x):\n    ...  # your code here\n\n\ncompare" in sources["exercises"][-1]
    assert all("find_spec" in sources[kind][1] for kind in sources)


def test_each_notebook_leads_to_those_beside_it(build):
    start, *rest = [path.stem for path in LESSONS]
    assert build.ways(LESSONS[0], "lessons").endswith(f" →]({rest[0]}.ipynb)")
    for kind, before, contents in (("lessons", start, start), ("exercises", None, f"../{start}")):
        for number, master in enumerate(LESSONS[1:], 1):
            links = re.findall(r"\]\((.+?)\.ipynb\)", build.ways(master, kind))
            assert links == [x for x in (before, contents, *rest[number : number + 1]) if x]
            before = master.stem
            [cell] = build.notebooks_of(master)[kind].cells[:1]
            assert build.ways(master, kind) in cell.source


def test_what_goes_deeper_leads_to_its_lesson_and_on(build, tmp_path):
    for name in ("00_start", "01_one", "01b_more", "02_two"):
        (tmp_path / f"{name}.py").write_text(f"# %% [markdown]\n# # {name[:2]} · {name}\n")
    ways = {m.stem: build.ways(m, "lessons") for m in tmp_path.glob("*.py")}
    links = {name: re.findall(r"\]\((.+?)\.ipynb\)", line) for name, line in ways.items()}
    assert links["01b_more"] == ["01_one", "00_start", "02_two"]
    assert links["01_one"] == ["00_start", "00_start", "02_two"]
    assert links["02_two"] == ["01_one", "00_start"]


def test_tasks_are_blank_in_the_lesson_and_solved_in_the_solutions(build, tmp_path):
    master = tmp_path / "99_a_lesson.py"
    master.write_text(
        MASTER.replace('tags=["exercise"]', 'tags=["task"]')
        + '\n# %% tags=["hide-input"]\nprint(2)\n',
        encoding="utf-8",
    )
    notebooks = build.notebooks_of(master)
    assert notebooks.keys() == {"lessons", "solutions"}
    lesson = [cell.source for cell in notebooks["lessons"].cells]
    assert any("def twice(x):\n    ...  # your code here" in source for source in lesson)
    assert any("return 2 * x" in cell.source for cell in notebooks["solutions"].cells)
    assert notebooks["lessons"].cells[-1].metadata["jupyter"] == {"source_hidden": True}


@pytest.mark.slow
def test_what_is_wrong_with_a_notebook_is_found(build, notebooks, tmp_path):
    from copy import deepcopy

    import nbformat

    def problems(kind, change):
        notebook = deepcopy(notebooks[kind])
        change(notebook.cells)
        return "; ".join(build.problems(kind, notebook, done[kind]))

    done = {}
    for kind, notebook in notebooks.items():
        build.execute(notebook, tmp_path)
        done[kind] = deepcopy(notebook)
        assert build.problems(kind, notebook, notebook) == []

    def printed(text, name="stdout"):
        return [nbformat.v4.new_output("stream", text=text, name=name)]

    def no_output(cells):
        cells[3].outputs = []

    def failed(cells):
        cells[3].outputs = [
            nbformat.v4.new_output("error", ename="AssertionError", evalue="no", traceback=[])
        ]

    def noise(cells):
        cells[3].outputs = printed("/home/me/data")

    def warned(cells):
        cells[3].outputs = printed("hm", "stderr")

    def other(cells):
        cells[3].source = "print(2)"

    def wrong(cells):
        cells[-1].outputs[0].data["text/plain"] = "twice returned None"

    def solved(cells):
        cells[-1].outputs[0].data["text/plain"] = "twice holds"

    assert "shows []" in problems("lessons", no_output)
    assert "AssertionError: no" in problems("lessons", failed)
    assert "'/home/'" in problems("lessons", noise)
    assert "stderr" in problems("lessons", warned)
    assert "is not what its master says" in problems("lessons", other)
    assert "answers" in problems("solutions", wrong)
    assert "answers" in problems("exercises", solved)
    assert build.differences(done["lessons"], done["lessons"]) == []


# ---------------------------------------------------------------------------------------------
# The glossary
# ---------------------------------------------------------------------------------------------


def test_glossary_points_at_the_lines_that_it_quotes(build):
    text = build.GLOSSARY.read_text(encoding="utf-8")
    entries = build.glossary_entries(text)
    assert len(entries) >= 60
    for path, line, code in entries:
        lines = (ROOT / path).read_text(encoding="utf-8").split("\n")
        assert code in lines[line - 1], f"{path}:{line} is not {code!r}; run: make lessons-make"
    names = re.findall(r"^\*\*(.+?)\*\*", text, re.M)
    assert names == sorted(names, key=str.lower)
    assert len(set(names)) == len(names)


def test_glossary_leads_to_the_section_of_each_term(build):
    text = build.GLOSSARY.read_text(encoding="utf-8")
    terms = text.split("\n**")[1:]
    for term in terms:
        name, section = re.search(r"\]\((\d\d\w+)\.ipynb#(.+?)\)$", term, re.M).groups()
        master = (build.MASTERS / f"{name}.py").read_text(encoding="utf-8")
        headings = re.findall(r"^# ##+ (.+)$", master, re.M)
        assert section in [heading.replace(" ", "-") for heading in headings], section
    assert len(terms) >= 60


@pytest.mark.parametrize("master", [*LESSONS, *DEEPER], ids=lambda path: path.stem)
def test_links_to_sections_of_lessons_lead_there(build, master):
    text = master.read_text(encoding="utf-8")
    for name, section in re.findall(r"\]\((\d\d\w+)\.ipynb#(.+?)\)", text):
        there = (build.MASTERS / f"{name}.py").read_text(encoding="utf-8")
        headings = re.findall(r"^# ##+ (.+)$", there, re.M)
        assert section in [heading.replace(" ", "-") for heading in headings], section


def test_a_slip_that_is_known_is_named_and_nothing_else_is_in_the_way():
    def doubled(x):
        return 2 * x

    slips = {"that is the square": lambda x: x**2, "these are both": lambda x: [x, 2 * x]}
    for answer, sentence in (
        (doubled, "holds"),
        (lambda x: x**2, "that is the square"),
        (lambda x: [x, 2 * x], "these are both"),
        (lambda x: 7 * x, "too large, by 250 %"),
        (lambda x: None, "None"),
    ):
        assert sentence in compare(with_slips(answer, slips), doubled, 3.0).text
    looked = []
    kept = watched(lambda found, *given: looked.append((found, *given)))(doubled)
    assert kept(3.0) == 6.0
    assert kept.__name__ == "doubled"
    assert looked == [(6.0, 3.0)]


def test_an_answer_never_shows_two_equal_numbers():
    answer = compare(lambda x: x + 1e-7, lambda x: x, np.array([1.5, 2.5]))
    got, expected = re.search(r"got (\S+), expected (\S+)$", answer.text).groups()
    assert got != expected
    assert "returned 1.5000001" in compare(lambda: 1.5000001, lambda: 1.5, tolerance=1e-9).text
    whole = compare(lambda x: 1.00001 * x, lambda x: x, np.array([1.5, 2.5]))
    assert "is 1.00001 times what is expected" in whole.text
    assert "too large, by 100 %" in compare(lambda: 0.0, lambda: -1.5).text
    assert "too small, by 0.05 %" in compare(lambda: 0.9995, lambda: 1.0).text
    below = confirm(0.50000001, lambda loss: loss < 0.5, "a loss of at most 0.4999")
    assert "found 0.5," in below.text
    below = confirm(0.50000001, lambda loss: loss <= 0.5, "a loss of at most 0.5")
    assert "found 0.50000001" in below.text
