"""What the workbook says of a file: the road, the answer for a function, what is worth knowing."""

from __future__ import annotations

import inspect
from pathlib import Path

from core.gradient_check.case import our_function
from core.gradient_check.checking import Row
from core.gradient_check.diagnosis import hints
from core.workbook.begin import BEGIN
from core.workbook.page import Page
from core.workbook.road import ROAD
from core.workbook.standing import ABSENT, EMPTY, HOLDS, WAITING, WRONG, Standing
from core.workbook.worth import WORTH, notebook_of

_SHOWN = {
    HOLDS: ("✓", "green", "right"),
    WRONG: ("✗", "red", "wrong"),
    WAITING: ("→", "yellow", "waits for another"),
    EMPTY: ("·", "dim", "empty"),
    ABSENT: ("·", "dim", "not in the file"),
}
_WITH = {  # what a case passes that has another name than its functions
    "feed_forward_gelu": "with activation='gelu'",
    "decoder_block": "with activation='gelu'",
    "decoder_block_post_norm": "with norm_first=False and activation='gelu'",
    "decoder_block_dropout": "with dropout, and activation='gelu'",
}
_PRINTS = 5  # lines of what a file prints that are shown


def tell_count(page: Page, path: str | Path, standing: Standing) -> None:
    """One line: how many of them hold."""
    functions, held = standing.functions(), standing.all_with(HOLDS)
    parts = [f"{len(held)} of {len(functions)} hold"]
    for status, word in ((WRONG, "wrong"), (WAITING, "not checked")):
        if found := standing.all_with(status):
            parts.append(f"{len(found)} {word}")
    if empty := standing.all_with(EMPTY, ABSENT):
        parts.append(f"{len(empty)} empty")
    page.say(f"{path}: {', '.join(parts)}", "bold")


def tell_road(page: Page, path: str | Path, standing: Standing) -> None:
    """Per chapter what holds, what is wrong, what is empty."""
    tell_count(page, path, standing)
    page.say()
    chapters = standing.chapters()
    for chapter in chapters:
        by_status = {status: [] for status in _SHOWN}
        for name in chapter.functions:
            by_status[standing.of(name)[0]].append(name)
        title, count = f"Lesson {chapter.number}: {chapter.title}", len(chapter.functions)
        if len(by_status[HOLDS]) == count:
            page.say(f"{title}: all {count} hold", "green", "✓")
        elif len(by_status[EMPTY] + by_status[ABSENT]) == count:
            page.say(f"{title}: {count} empty", "dim", "·")
        else:
            mark, colour = ("✗", "red") if by_status[WRONG] else ("→", "yellow")
            page.say(f"{title}: {len(by_status[HOLDS])} of {count} hold", colour, mark)
            for status, (mark, colour, word) in _SHOWN.items():
                if names := by_status[status]:
                    page.say(f"{word}: {', '.join(names)}", colour, mark, indent=4)
    if left_out := [chapter for chapter in ROAD if chapter not in chapters]:
        page.say(
            f"left out of this file: {', '.join(chapter.title for chapter in left_out)}; it has "
            f"{len(chapters)} of the {len(ROAD)} chapters of the road",
            "dim",
        )


def tell_function(
    page: Page, path: str | Path, standing: Standing, name: str, hint: int = 1
) -> None:
    """Where a function is in the file, and what is wrong with it or where to read about it."""
    status, row = standing.of(name)
    place = f"{path}:{standing.source.lines[name]}" if name in standing.source.lines else str(path)
    if status == HOLDS:
        page.say(f"{name} holds, {place}", "green", "✓")
    elif row is not None:
        page.say(f"{name}, {place}", "red", "✗")
        passed = f"{_WITH[row.layer]}: " if row.layer in _WITH else ""
        page.say(f"{passed}{_sentence(name, row)}", indent=2)
    else:
        words = {
            EMPTY: "is empty",
            ABSENT: "is not in the file",
            WAITING: "was not checked: it waits for what is wrong before it",
        }
        page.say(f"{name} {words[status]}, {place}", "yellow", "→")
        tell_lesson(page, name)
    for level in range(2, hint + 1):
        for line in lines_of_hint(standing, name, level):
            tell_line(page, line)


def _sentence(name: str, row: Row) -> str:
    """What is wrong, with the quantity where it is the subject or missing."""
    if row.quantity == "-" or row.problem.startswith(name):
        return row.problem
    return f"{row.quantity}{':' if row.problem.startswith('the ') else ''} {row.problem}"


def lines_of_hint(standing: Standing, name: str, hint: int) -> list[str]:
    """What the second or the third hint adds to what is said of a function anyway."""
    status, row = standing.of(name)
    if row is not None:
        return hints(name, row.quantity, hint)[len(hints(name, row.quantity, hint - 1)) :]
    if status == HOLDS:
        return []
    way, line = BEGIN[name]
    if hint == 2:
        return [f"Hint 2: {way}"]
    return ["Hint 3: a line to begin with:", f"    {line}"]


def tell_lesson(page: Page, name: str) -> None:
    """Where to read about a function."""
    notebook = notebook_of(name)
    lesson = notebook.partition("_")[0].lstrip("0")
    page.say(f'Lesson {lesson}, "{WORTH[name][0]}": notebooks/{notebook}', "dim", indent=2)


def tell_worth(page: Page, name: str) -> None:
    """That a function holds, and a sentence worth knowing about it."""
    page.say(f"{name} holds", "green", "✓")
    page.say(WORTH[name][1], indent=2)
    tell_lesson(page, name)


def tell_solution(page: Page, name: str) -> None:
    """Our own code of a function."""
    page.code(inspect.getsource(our_function(name)).splitlines())


def tell_prints(page: Page, path: str | Path, lines: list[str], count: int) -> None:
    """What the file printed while it was checked: the first of ``count`` lines."""
    shown = min(_PRINTS, len(lines))
    more = f", {shown} of {count:,} lines" if count > shown else ""
    page.say(f"{path} printed{more}:", "dim")
    page.code([line[:200] for line in lines[:_PRINTS]])


def tell_line(page: Page, line: str) -> None:
    """A line of a hint: words, or code where it is indented."""
    if line.startswith("    "):
        page.code([line.strip()])
    else:
        page.say(line, indent=2)
