"""``check``: how far a file is, once."""

from __future__ import annotations

from pathlib import Path

from core.gradient_check.diagnosis import HINTS
from core.gradient_check.referee import ABSENT
from core.gradient_check.source import read_source
from core.support.command_line import quoted
from core.support.files import require_file
from core.workbook.background import Background
from core.workbook.page import Page
from core.workbook.road import FUNCTIONS, ROAD
from core.workbook.standing import WRONG, Standing, cases_of
from core.workbook.telling import tell_function, tell_prints, tell_road


def check(path: str, hint: int = 1) -> int:
    """Prints the road, and what to do next; returns 0 when all functions of the file hold, else 1.

    Raises FileNotFoundError when there is no such file, ValueError when it cannot be imported or
    has no function of the road.
    """
    page = Page()
    require_there(path)
    standing, printed = Standing(read_source(path), set()), None
    with Background(path) as background:
        background.check(cases_of(FUNCTIONS))
        for kind, value in background.events_to_the_end():
            if kind == "names":
                standing.names = value
                require_road(path, standing)
            elif kind == "rows":
                case, standing.rows[case.name] = value
                page.passing_by(f"checked {case.name} ...")
            elif kind == "prints":
                printed = value
            elif kind == "error":
                raise value
    page.clear()
    if printed:
        tell_prints(page, path, *printed)
    tell_road(page, path, standing)
    tell_what_next(page, path, standing, standing.next(), hint)
    if standing.all_with(WRONG) and hint < HINTS[-1]:
        page.say(f"more about it: --hint {hint + 1}", "dim", indent=2)
    return 0 if standing.holds() else 1


def require_there(path: str) -> None:
    """Raises FileNotFoundError or ValueError when there is no file at ``path``."""
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path}: no such file; write it with: python -m core.workbook new {quoted(path)}"
        )
    require_file(path)


def require_road(path: str, standing: Standing) -> None:
    """Raises ValueError when the file has no function of the road, not even an empty one."""
    if not standing.functions():
        raise ValueError(
            f"{path}: has none of the functions of the road; expected names such as "
            f"{', '.join(FUNCTIONS[:2])}, as a file has that 'python -m core.workbook new' wrote"
        )


def tell_what_next(
    page: Page, path: str, standing: Standing, name: str | None, hint: int = 1
) -> None:
    """What is wrong with that function or where to begin with it; at the end, what to train."""
    page.say()
    if name is not None:
        tell_function(page, path, standing, name, hint)
    elif not standing.functions():  # an editor may empty a file before it writes it anew
        page.say(f"{path}: none of the functions of the road is in it now")
    else:
        chapters = standing.chapters()
        whole = ": every layer of four captioners is yours" if len(chapters) == len(ROAD) else ""
        page.say(f"All {len(standing.functions())} hold{whole}. See them learn 50 captions:")
        model = chapters[0].models[0] if len(chapters) < len(ROAD) else "lstm"
        page.code(
            [
                f"python training.py --model {model} --engine plain --num_samples 50 "
                f"--impl {quoted(path)}"
            ]
        )
    if ABSENT:
        page.say(ABSENT, "dim")
