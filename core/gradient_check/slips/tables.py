"""The slips of each case: what a learner may have written, and the words that name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from core.gradient_check.slips import attention, basic, block, choices, recurrent, transformer
from core.gradient_check.slips.formulas import Formulas

TABLES = (
    basic.TABLE,
    recurrent.TABLE,
    attention.TABLE,
    transformer.TABLE,
    block.TABLE,
    choices.TABLE,
)


@dataclass(frozen=True)
class Slip:
    """A wrong function: its name, the words for what is wrong with it, and itself."""

    name: str
    hint: str
    function: Callable


@cache
def slips_of(name: str) -> tuple[Slip, ...]:
    """The slips of a function by its name; those with a name of their own come first."""
    return tuple(
        Slip(name, hint, function)
        for table in TABLES
        for hint, function in table.get(name, lambda: ())()
    )


def lines_of(name: str) -> tuple[Formulas, Callable] | None:
    """The lines that a function is made of, and what makes the function of such lines; or None."""
    for module in (basic, recurrent, attention, transformer):
        if name in module.RIGHT:
            return module.RIGHT[name], lambda lines: lines
    return {**recurrent.LOOPS, **attention.LOOPS, **choices.LOOPS}.get(name)


def right_formulas() -> Iterator[tuple[str, Formulas]]:
    """Every layer that stands here as lines, right: for the tests."""
    for module in (basic, recurrent, attention, transformer):
        yield from module.RIGHT.items()
