"""The README and the pages in docs: short, and every command in them is one that runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_MEASURED = ("results.md", "results-squeezenet.md")  # pages that a command writes
PAGES = [
    ROOT / "README.md",
    ROOT / "datasets" / "README.md",
    ROOT / "notebooks" / "README.md",
    *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.name not in _MEASURED),
]


def commands_of(text: str) -> list[str]:
    """The lines of a page's code, and the code inside its lines, that call Python or make."""
    found = re.findall(r"^ {4}((?:python|make|torchrun) .*)$", text, re.M)
    return found + re.findall(r"`((?:python|make) [^`]*)`", text)


COMMANDS = sorted({c for page in PAGES for c in commands_of(page.read_text(encoding="utf-8"))})
_MAKE = [c for c in COMMANDS if c.startswith("make")]
_PYTHON = [c for c in COMMANDS if not c.startswith("make")]


def parse(command: str) -> tuple[str, list[str]] | None:
    """The program of a command and its long options, None where it is not ours."""
    words = shlex.split(command, comments=True)
    at = next((i for i, w in enumerate(words) if w.endswith(".py") or w.startswith("core.")), None)
    if "benchmarks" in command or at is None or words[1:3] == ["-m", "pip"]:
        return None
    return words[at], [w.split("=")[0] for w in words[at + 1 :] if w.startswith("--")]


@pytest.fixture(scope="module")
def help_of():
    """What each program says it takes, asked once."""
    told = {}

    def ask(program: str) -> set[str]:
        if program not in told:
            words = ["-m", program] if program.startswith("core.") else [program]
            done = subprocess.run(
                [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{program}: {done.stderr}"
            told[program] = set(re.findall(r"--\w+", done.stdout))
        return told[program]

    return ask


def test_the_readme_is_short():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) < 1900


def test_the_first_command_is_on_the_first_screen():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.index("    make demo") < 25


@pytest.mark.slow
def test_every_option_is_one_that_its_program_takes(help_of):
    assert len(_PYTHON) > 20
    for command in _PYTHON:
        known = parse(command)
        if known is None:
            continue
        program, options = known
        unknown = [o for o in options if o not in help_of(program)]
        assert not unknown, f"{command}: {program} takes no {unknown}"


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    for command in _MAKE:
        assert command.split()[1] in targets or "=" in command.split()[1], command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_paragraph_begins_in_lower_case(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^ {4}.*\n\n([a-z]\w* .*)", text, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_plain_words(page):
    text = page.read_text(encoding="utf-8")
    wrong = r"nats a token|an image,|a row an epoch|\b(?:shall|stands|lies)\b|\b[Cc]olab\b|\u2014"
    assert not re.findall(wrong, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_can_be_pasted_into_any_shell(page):
    assert not re.findall(r"^.*\\$", page.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("    python training.py --model rnn --seed 1\n", True),
        ("see `make demo`.\n", True),
        ("    epoch 1 of 3\n", False),
    ],
)
def test_what_counts_as_a_command(text, found):
    assert bool(commands_of(text)) == found
