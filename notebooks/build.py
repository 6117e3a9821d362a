"""Makes the notebooks from their masters, executes them, and checks them.

    python notebooks/build.py make [NN ...]      masters/NN_name.py -> NN_name.ipynb, exercises/ and
                                                 solutions/, executed, with their outputs
    python notebooks/build.py check [NN ...]     executes all of them anew; changes nothing

A master is a Python file in jupytext's percent format; NNb_name.py goes deeper than lesson NN, and
no lesson needs it. The cells of a master go to the lesson, but for those with a tag:

    # %% tags=["setup"]                  to the lesson, its exercises and its solutions: the imports
    # %% [markdown] tags=["exercise"]    to all three: what is asked
    # %% tags=["exercise"]               code of the exercises and the solutions only; what is
                                         between the lines "### BEGIN SOLUTION" and "### END
                                         SOLUTION" is blank in the exercises
    # %% tags=["task"]                   the same for lines to write in the lesson itself: blank
                                         there, filled in the solutions; it needs the setup alone
    # %% tags=["hide-input"]             code that is shown folded: plots and plumbing
    # %% tags=["measured"]               its output is a time or the like, other on every run
    # %% tags=["picture"]                its figure stands for the lesson in the README
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

HERE = Path(__file__).resolve().parent
MASTERS = HERE / "masters"
GLOSSARY = HERE / "GLOSSARY.md"
PICTURES = HERE.parent / "docs" / "lessons"
KINDS = ("lessons", "exercises", "solutions")
LARGEST = 1_500_000  # bytes of a notebook
WIDTH = 360  # pixels of a lesson's picture
TIMEOUT = 600  # seconds a cell may take before something is wrong

_HAVE_IT = 'importlib.util.find_spec("core") and importlib.util.find_spec("core.lessons")'
_WITHOUT_ADDRESS = f'''\
# Another package may be called core, too: only that of this project will do.
import importlib.util

have_it = {_HAVE_IT}
assert have_it, "first, in the folder of the project: python -m pip install -e ."'''
_WITH_ADDRESS = f"""\
# Only where this Python does not have the project yet, on Colab for instance.
import importlib.util
import subprocess
import sys

if not ({_HAVE_IT}):
    subprocess.run(["git", "clone", "--depth", "1", "ADDRESS", "project"], check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "-e", "project"]
    subprocess.run(install, check=True)
    sys.path.insert(0, "project")
    sys.modules.pop("core", None)  # one of another project"""


def address() -> str | None:
    """Where the project is published: Repository in pyproject.toml, once it has one."""
    settings = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+?)(?:\.git)?/?"', settings, re.M)
    return found and found[1]


def opening(address: str | None, notebook: str) -> tuple[str, str]:
    """What follows a notebook's title, and its first cell of code.

    Inputs:
    - address: of the repository; None where it has none
    - notebook: its path in the repository
    """
    if address is None:
        return "", _WITHOUT_ADDRESS
    code = _WITH_ADDRESS.replace("ADDRESS", address)
    place = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", address)
    if place is None:  # Colab opens what is on GitHub
        return "", code
    colab = f"https://colab.research.google.com/github/{place[1]}/blob/main/{notebook}"
    return f"\n\n[**Open in Colab**]({colab})", code


_SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION *$", re.DOTALL | re.M)
_BLANK = r"\1...  # your code here"
_CODE_LINK = re.compile(r"\[`(?P<code>.+?)`\]\(\.\./(?P<path>[^)#]+)#L(?P<line>\d+)\)")
# What no output may hold: folders of this machine, warnings, bars.
_HERE = "|".join(re.escape(str(f)) for f in (HERE.parent, Path.home(), tempfile.gettempdir()))
_NOISE = re.compile(rf"{_HERE}|/home/|/Users/|\b[A-Z]:\\|Warning|it/s\]|object at 0x")
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def paths_of(name: str) -> dict[str, Path]:
    """Where the notebooks of a master belong, by kind."""
    return {kind: HERE / ("" if kind == "lessons" else kind) / f"{name}.ipynb" for kind in KINDS}


def notebooks_of(master: Path) -> dict[str, nbformat.NotebookNode]:
    """A master -> its lesson, its exercises and its solutions, without outputs.

    What has no exercises has no notebook for them; tasks alone have one for their solutions.
    """
    cells = jupytext.read(master, fmt="py:percent").cells
    title = next(c.source for c in cells if c.cell_type == "markdown").split("\n")[0].lstrip("# ")
    lesson, exercises = [], [_title("Exercises", title, master)]
    solutions = [_title("Solutions", title, master)]
    kinds = {"lessons"}
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        blank = _with_source(cell, _SOLUTION.sub(_BLANK, cell.source))
        filled = _with_source(cell, _SOLUTION.sub(_inside, cell.source))
        exercise, setup, task = (tag in tags for tag in ("exercise", "setup", "task"))
        if not exercise or cell.cell_type == "markdown":
            lesson.append(blank)
        if exercise or setup:
            exercises.append(blank)
        if exercise or setup or task:
            solutions.append(filled)
        kinds |= {"exercises", "solutions"} if exercise else {"solutions"} if task else set()
    cells = {"lessons": lesson, "exercises": exercises, "solutions": solutions}
    paths = paths_of(master.stem)
    lesson[0] = _with_source(lesson[0], _with_ways(lesson[0].source, ways(master, KINDS[0])))
    if beside := ways(master, KINDS[0]):
        lesson.append(nbformat.v4.new_markdown_cell(beside))
    return {kind: _notebook(_opened(paths[kind], cells[kind])) for kind in KINDS if kind in kinds}


def ways(master: Path, kind: str) -> str:
    """A line of links: to the notebook before, to the contents, to the one after it."""
    up = "" if kind == "lessons" else "../"
    lessons = sorted(master.parent.glob("[0-9][0-9]_*.py"))
    # What goes deeper leads to its lesson, and on to the next; a lesson, to the lessons beside it.
    own = next(lesson for lesson in lessons if lesson.name[:2] == master.name[:2])
    place = lessons.index(own)
    before = own if master != own else lessons[place - 1] if place else None
    links = []
    if before and (kind == "lessons" or before != lessons[0]):
        links.append(f"[← {_name(before)}]({before.stem}.ipynb)")
    if (start := lessons[0]) != master and start.stem.startswith("00"):
        links.append(f"[contents]({up}{start.stem}.ipynb)")
    if place + 1 < len(lessons):
        after = lessons[place + 1]
        links.append(f"[{_name(after)} →]({after.stem}.ipynb)")
    return " · ".join(links)


def _name(master: Path) -> str:
    """The title of a lesson, without its number."""
    heading = re.search(r"^# # (?:\d+b? · )?(.+)$", master.read_text(encoding="utf-8"), re.M)
    return heading[1]


def _with_ways(source: str, line: str) -> str:
    """A cell with the links below its heading."""
    heading, _, rest = source.partition("\n")
    return f"{heading}\n\n{line}\n{rest}" if line else source


def _opened(path: Path, cells: list) -> list:
    """The title comes first, then the cell that looks for the project."""
    badge, code = opening(address(), path.relative_to(HERE.parent).as_posix())
    title = _with_source(cells[0], cells[0].source + badge)
    return [title, nbformat.v4.new_code_cell(code), *cells[1:]]


def _inside(solution: re.Match) -> str:
    return solution[2].rstrip("\n")


def _title(kind: str, title: str, master: Path) -> nbformat.NotebookNode:
    lesson = f"../{master.stem}.ipynb"
    other = "solutions" if kind == "Exercises" else "exercises"
    text = f"# {kind}: {title}\n\nBack to [the lesson]({lesson})"
    if 'tags=["exercise"]' in master.read_text(encoding="utf-8"):
        text += f"; beside it [the {other}](../{other}/{master.stem}.ipynb)"
    return nbformat.v4.new_markdown_cell(_with_ways(text + ".", ways(master, kind.lower())))


def _with_source(cell, source: str):
    cell = deepcopy(cell)
    cell.source = source
    return cell


def _notebook(cells) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(metadata=deepcopy(_METADATA))
    for number, cell in enumerate(cells):
        cell = deepcopy(cell)
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if "hide-input" in tags:  # as JupyterLab calls it
            cell.metadata["jupyter"] = {"source_hidden": True}
        notebook.cells.append(nbformat.from_dict(cell))
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> float:
    """Executes a notebook in place, as if it stood in ``folder``; returns the seconds it took.

    On one core, unless it measures. An error in a cell ends it, and stays in its output.
    """
    environment = dict(os.environ)
    if not _is_measuring(notebook):
        environment["OMP_NUM_THREADS"] = "1"
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    client = NotebookClient(
        notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(folder)}},
        record_timing=False, extra_arguments=["--log-level=ERROR"],
    )  # fmt: skip
    start = time.perf_counter()
    with contextlib.suppress(CellExecutionError):  # the cell shows it, ``problems`` reports it
        client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)
    notebook.metadata = deepcopy(_METADATA)
    return time.perf_counter() - start


def _tidy(outputs):
    """Neighbouring pieces of one stream as one: where they were cut is chance."""
    tidy = []
    for output in outputs:
        if output.output_type == "stream" and tidy and tidy[-1].get("name") == output.name:
            tidy[-1].text += output.text
        else:
            tidy.append(output)
    return tidy


def _kinds(cell) -> list[str]:
    """What kinds of output a cell has, pieces of a stream counted once."""
    return [
        output.get("name") or "/".join(sorted(output.get("data", {"error": 0})))
        for output in cell.get("outputs", [])
    ]


def _text(cell) -> str:
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts = output.get("text"), data.get("text/markdown"), data.get("text/plain")
        parts.append(next((text for text in texts if text), ""))
    return "\n".join(parts)


def problems(kind: str, notebook, committed) -> list[str]:
    """What is wrong with an executed notebook: errors, noise, outputs that are missing.

    Inputs:
    - kind: one of ``KINDS``
    - notebook: executed just now
    - committed: the same as it stands in the repository
    """
    found = []
    if [c.source for c in notebook.cells] != [c.source for c in committed.cells]:
        found.append("is not what its master says; run: python notebooks/build.py make")
        return found
    for number, (cell, before) in enumerate(zip(notebook.cells, committed.cells, strict=True)):
        place = f"cell {number}"
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{place}: {output.ename}: {output.evalue} {_line_of(output)}")
            if output.get("name") == "stderr":
                found.append(f"{place}: writes to stderr: {output.text.strip()[:200]}")
        if noise := _NOISE.search(_text(cell)):
            found.append(f"{place}: {noise[0]!r} in its output")
        if _kinds(cell) != _kinds(before):
            found.append(f"{place}: shows {_kinds(cell)}, in the repository {_kinds(before)}")
        asks = kind != "lessons" or "task" in cell.metadata.get("tags", [])
        if asks and re.search(r"^(check|compare|confirm)\(", cell.source, re.M):
            holds = bool(re.search(r"\bholds\b", _text(cell)))
            if holds != (kind == "solutions"):
                found.append(f"{place}: answers {_text(cell).strip()[-200:]!r}")
    return found


def _line_of(error) -> str:
    """The line of the cell that raised an error."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return next((line.strip() for line in text.split("\n") if re.match(r"-+> \d", line)), "")


def differences(notebook, committed) -> list[str]:
    """Cells whose text is another than in the repository, but for those that measure."""
    return [
        f"cell {number}"
        for number, (cell, before) in enumerate(zip(notebook.cells, committed.cells, strict=True))
        if _text(cell) != _text(before) and "measured" not in cell.metadata.get("tags", [])
    ]


def _is_measuring(notebook) -> bool:
    return any("measured" in cell.metadata.get("tags", []) for cell in notebook.cells)


def _in_turn(jobs, work) -> None:
    """Notebooks two at a time; those that measure alone, at the end."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [job for job in jobs if not _is_measuring(job[2])]))
    for job in jobs:
        if _is_measuring(job[2]):
            work(job)


def make(jobs) -> int:
    """Writes the notebooks, executed; what has outputs that only measure keeps the old ones."""

    def work(job):
        kind, path, notebook = job
        seconds = execute(notebook, path.parent)
        found = problems(kind, notebook, notebook)
        if path.is_file():
            before = nbformat.read(path, as_version=4)
            same = [c.source for c in before.cells] == [c.source for c in notebook.cells]
            for cell, old in zip(notebook.cells, before.cells, strict=False):
                if same and "measured" in cell.metadata.get("tags", []) and old.outputs:
                    cell.outputs = old.outputs
        temporary = path.with_suffix(".part")
        nbformat.write(notebook, temporary)
        if temporary.stat().st_size > LARGEST:
            found.append(f"has {temporary.stat().st_size:,} bytes, at most {LARGEST:,} are wanted")
        os.replace(temporary, path)
        if kind == "lessons":
            _save_picture(notebook, PICTURES / f"{path.stem.partition('_')[0]}.png")
        _say(path, seconds, found)
        failed.extend(found)

    update_glossary()
    failed = []
    PICTURES.mkdir(exist_ok=True)
    for kind in KINDS[1:]:
        (HERE / kind).mkdir(exist_ok=True)
    _in_turn(jobs, work)
    return 1 if failed else 0


def _save_picture(notebook, path: Path) -> None:
    """The figure of the cell that is tagged so, made small."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png and "picture" in cell.metadata.get("tags", []):
                with Image.open(io.BytesIO(base64.b64decode(png))) as figure:
                    figure.thumbnail((WIDTH, WIDTH))
                    figure.save(path)
                return


def check(jobs) -> int:
    """Executes all, compares with what stands in the repository, and says what is wrong."""

    def work(job):
        kind, path, notebook = job
        if not path.is_file():
            failed.append("missing")
            return _say(path, 0, ["is not there; run: python notebooks/build.py make"])
        committed = nbformat.read(path, as_version=4)
        seconds = execute(notebook, path.parent)
        found = problems(kind, notebook, committed)
        if path.stat().st_size > LARGEST:
            found.append(f"has {path.stat().st_size:,} bytes, at most {LARGEST:,} are wanted")
        _say(path, seconds, found, [] if found else differences(notebook, committed))
        failed.extend(found)

    failed = []
    _in_turn(jobs, work)
    print(f"{len(jobs)} notebooks, {len(failed)} problems")
    return 1 if failed else 0


def _say(path: Path, seconds: float, found: list[str], others: list[str] = ()) -> None:
    verdict = "WRONG" if found else "ok"
    if others:
        verdict += f" (other text than in the repository: {', '.join(others)})"
    lines = [f"{path.relative_to(HERE).as_posix():<50}{seconds:6.1f} s  {verdict}"]
    print("\n".join(lines + [f"    {problem}" for problem in found]), flush=True)


def glossary_entries(text: str) -> list[tuple[str, int, str]]:
    """What a glossary says of code: (path, line, what stands there)."""
    return [(m["path"], int(m["line"]), m["code"]) for m in _CODE_LINK.finditer(text)]


def update_glossary() -> None:
    """Moves the glossary's links to where the code now stands.

    Raises ValueError for code that stands in its file no more, or more than once.
    """

    def moved(link: re.Match) -> str:
        lines = (HERE.parent / link["path"]).read_text(encoding="utf-8").split("\n")
        places = [number for number, line in enumerate(lines, 1) if link["code"] in line]
        if len(places) != 1:
            raise ValueError(
                f"{GLOSSARY.name}: {link['code']!r} stands {len(places)} times in {link['path']}, "
                "expected once; quote another line there"
            )
        return f"[`{link['code']}`](../{link['path']}#L{places[0]})"

    text = GLOSSARY.read_text(encoding="utf-8")
    GLOSSARY.write_text(_CODE_LINK.sub(moved, text), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("make", "check"))
    parser.add_argument("numbers", nargs="*", metavar="NN", help="of the lessons; all when none")
    arguments = parser.parse_args()
    masters = sorted(
        path for path in MASTERS.glob("[0-9][0-9]*_*.py")
        if not arguments.numbers or path.name[:2] in arguments.numbers
    )  # fmt: skip
    missing = set(arguments.numbers) - {path.name[:2] for path in masters}
    if missing or not masters:
        print(f"no master for {', '.join(sorted(missing)) or 'any lesson'}", file=sys.stderr)
        return 2
    jobs = []
    for master in masters:
        notebooks = notebooks_of(master)
        paths = paths_of(master.stem)
        jobs += [(kind, paths[kind], notebook) for kind, notebook in notebooks.items()]
    return {"make": make, "check": check}[arguments.command](jobs)


if __name__ == "__main__":
    sys.exit(main())
