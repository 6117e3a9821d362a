"""How far a learner's file is: what holds, is wrong, is empty, by the rows of the check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.gradient_check.case import Case
from core.gradient_check.cases import CASES
from core.gradient_check.checking import Row
from core.gradient_check.report import first_wrong
from core.gradient_check.source import Source
from core.workbook.road import ROAD, Chapter

# A function's: right, wrong, with no code yet, not in the file, and not yet checked.
HOLDS, WRONG, EMPTY, ABSENT, WAITING = "holds", "wrong", "empty", "absent", "waiting"


@dataclass
class Standing:
    """What is known of a file.

    - source: its text
    - names: the functions that it defines
    - rows: of each case that was checked
    """

    source: Source
    names: set[str]
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def of(self, function: str) -> tuple[str, Row | None]:
        """Whether a function holds; and, if it is wrong, the row that says why."""
        if function in self.source.empty:
            return EMPTY, None
        if function not in self.names:
            return ABSENT, None
        cases = cases_of([function])
        mine = [rows_of(function, case, self.rows.get(case.name, []), self.names) for case in cases]
        wrong = first_wrong(row for rows in mine for row in rows)
        if wrong is not None:
            return WRONG, wrong
        return (HOLDS if mine and all(mine) else WAITING), None

    def chapters(self) -> list[Chapter]:
        """Those of which there is anything in the file."""
        return [c for c in ROAD if any(self.of(name)[0] != ABSENT for name in c.functions)]

    def functions(self) -> list[str]:
        """What counts: all functions of those chapters."""
        return [name for chapter in self.chapters() for name in chapter.functions]

    def all_with(self, *statuses: str) -> list[str]:
        """The functions that count and have one of these."""
        return [name for name in self.functions() if self.of(name)[0] in statuses]

    def holds(self) -> bool:
        """Whether everything that counts does."""
        return bool(self.functions()) and self.all_with(HOLDS) == self.functions()

    def next(self, after: str | None = None) -> str | None:
        """What to write or mend next: the first wrong one, else the first empty one.

        ``after`` a function: the next that does not hold, whatever it is, from the top again after
        the last.
        """
        if after is None:
            return next(iter([*self.all_with(WRONG), *self.all_with(EMPTY, ABSENT, WAITING)]), None)
        order = self.functions()
        start = order.index(after) + 1 if after in order else 0
        left = [name for name in order[start:] + order[:start] if self.of(name)[0] != HOLDS]
        return next(iter(left), None)


def cases_of(functions: Iterable[str]) -> list[Case]:
    """The cases that check any of these, in the order of ``CASES``."""
    wanted = set(functions)
    return [case for case in CASES if wanted & set(case.functions)]


def rows_of(function: str, case: Case, rows: Iterable[Row], names: Mapping | set) -> list[Row]:
    """Those rows of a case that are about this one of its functions."""
    return [row for row in rows if _about(row, case, names) == function]


def _about(row: Row, case: Case, names) -> str:
    """The function that a row is about."""
    forward, backward = case.functions[0], case.functions[-1]
    if row.quantity in case.outputs or forward == backward:
        return forward
    if row.quantity != "-":
        return backward
    said = row.problem or ""
    if backward in said and (forward not in said or said.index(backward) < said.index(forward)):
        return backward
    return forward if forward in names else backward
