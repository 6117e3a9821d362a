"""The check in a notebook: a function of the learner's own, and the report at the end of a cell.

Measured by ``core/gradient_check/checking.py``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from core.gradient_check.cases import CASES
from core.gradient_check.checking import Row, check_case
from core.gradient_check.diagnosis import HINTS, hints, is_specific
from core.gradient_check.learner import KNOWN
from core.gradient_check.referee import ABSENT


def first_wrong(rows: Iterable[Row]) -> Row | None:
    """The wrong row to read first: the forward, then what names its mistake, then the order."""
    wrong = [row for row in rows if not row.passed]
    for tells in (
        lambda row: row.problem.startswith("the forward"),
        lambda row: row.quantity != "-" and is_specific(row.problem),
        lambda row: row.quantity == "-",
    ):
        if found := next(filter(tells, wrong), None):
            return found
    return wrong[0] if wrong else None


@dataclass
class Report:
    """What ``check`` found: shown as text at the end of a cell, true when all gradients hold."""

    name: str
    rows: list[Row]
    hint: int

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        width = max(12, *(len(row.quantity) + 1 for row in self.rows))
        lines = [
            f"{row.quantity:<{width}}{'ok' if row.passed else 'WRONG'}"
            for row in self.rows
            if row.quantity != "-"
        ]
        if self.passed:
            return "\n".join([*lines, f"{self.name} holds", *([ABSENT] if ABSENT else [])])
        wrong = first_wrong(self.rows)
        names_itself = wrong.quantity == "-" or " returned " in wrong.problem
        quantity = "" if names_itself else f"{wrong.quantity} "
        lines.append(f"{self.name} does not hold yet. First: {quantity}{wrong.problem}")
        lines += [
            f"Besides: {row.problem}"
            for row in self.rows
            if row.quantity == "-" and row is not wrong
        ]
        lines += hints(self.name, wrong.quantity, self.hint)
        if self.hint < HINTS[-1]:
            lines.append(f"A further hint: check(..., hint={self.hint + 1})")
        return "\n".join(
            line if line.startswith("    ") else "\n    ".join(textwrap.wrap(line, 96))
            for line in lines
        )


def check(
    name: str, function: Callable, forward: Callable | None = None, hint: int = 1, seed: int = 0
) -> Report:
    """Checks a function of your own in the place of ours, on random inputs.

    Inputs:
    - name: of the function that it stands in for: 'affine_forward', 'lstm_step_backward', ...
    - function: yours. A backward gets the cache of ours, whose docstring says what that holds;
    - forward: unless you give yours as well
    - hint: 1 says what is wrong with the first wrong gradient, with the likely mistake; 2 adds the
      line of the forward that it comes from; 3 adds our line of code
    - seed: of the random inputs

    A function of your own is a program: it runs here, with your rights.

    Returns a report that prints itself at the end of a cell, and is true when everything holds.
    Raises ValueError for a name that is not known, and for a hint that is not 1, 2 or 3.
    """
    case = next((case for case in CASES if name in case.functions), None)
    if case is None:
        raise ValueError(f"check: found {name!r}, expected one of {', '.join(sorted(KNOWN))}")
    if hint not in HINTS:
        raise ValueError(f"check: found hint={hint!r}, expected 1, 2 or 3")
    functions = {name: function}
    if forward is not None:
        functions[case.functions[0]] = forward
    return Report(name, check_case(case, np.random.default_rng(seed), functions), hint)
