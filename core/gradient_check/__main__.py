"""Gradients checked twice: against central differences, and against PyTorch's autograd.

    python -m core.gradient_check                       every layer and every model
    python -m core.gradient_check --layer lstm_step     one of them
    python -m core.gradient_check --impl my_layers.py   your own functions instead of ours

Exit code 0 when every gradient holds, 1 when one does not. FILE.py is a program: it runs with your
rights, in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from core.gradient_check.apart import check_apart, rng_of
from core.gradient_check.case import Case
from core.gradient_check.cases import CASES
from core.gradient_check.checking import (
    DIFFERENCE_TOLERANCE,
    TORCH_TOLERANCE,
    Row,
    check_case,
)
from core.gradient_check.diagnosis import HINTS, hints
from core.gradient_check.learner import KNOWN, Functions
from core.gradient_check.referee import ABSENT
from core.gradient_check.report import first_wrong
from core.support.command_line import ArgumentParser, non_negative_int, run_command

_FEW = 6  # names that a line may list


def main() -> int:
    cases = {case.name: case for case in CASES}
    parser = ArgumentParser(
        prog="python -m core.gradient_check", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--layer", choices=list(cases), metavar="NAME", help=", ".join(cases))
    parser.add_argument(
        "--impl", metavar="FILE.py", help="check the functions of this file instead"
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, help="seed of the random inputs"
    )
    parser.add_argument(
        "--hint", type=int, choices=HINTS, default=1, help="how much to say about what is wrong"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    chosen = [cases[arguments.layer]] if arguments.layer else list(CASES)
    functions, forward_only, skipped, ignored = set(), [], [], []
    if arguments.impl is not None:
        streams = {"stdout": 2} if arguments.json else None
        checked = check_apart(arguments.impl, chosen, arguments.seed, streams)
        functions = next(checked)
        skipped = [case.name for case in chosen if not functions & set(case.functions)]
        ignored = sorted(functions - KNOWN)
        functions &= KNOWN
        chosen = [case for case in chosen if case.name not in skipped]
        known = Functions(dict.fromkeys(functions))
        forward_only = [case.name for case in chosen if known.forward_only(case)]
        if not chosen:
            wanted = sorted(cases[arguments.layer].functions if arguments.layer else KNOWN)
            raise ValueError(
                f"{arguments.impl}: defines none of the functions to check; "
                f"expected names such as {', '.join(wanted[:4])}"
            )
    else:
        checked = (check_case(case, rng_of(case, arguments.seed), {}) for case in chosen)

    rows = []
    for case in chosen:
        rows += (case_rows := next(checked))
        if not arguments.json:
            _print_rows(case_rows, chosen, header=case is chosen[0])
    failed = [row for row in rows if not row.passed]

    if arguments.json:
        report = {
            "passed": not failed,
            "torch": ABSENT is None,
            "rows": [{k: _no_nan(v) for k, v in asdict(row).items()} for row in rows],
            "forward_only": forward_only,
            "skipped": skipped,
            "ignored": ignored,
        }
        print(json.dumps(report, indent=1))
        return 1 if failed else 0

    print()
    if ABSENT:
        print(ABSENT)
    if arguments.impl:
        print(f"replaced by {arguments.impl}: {', '.join(sorted(functions))}")
        if forward_only:
            print(f"forward only, {arguments.impl} has no backward: {', '.join(forward_only)}")
        if skipped:
            few = f": {', '.join(skipped)}" if len(skipped) <= _FEW else ""
            print(f"skipped, not in {arguments.impl}: {len(skipped)} of {len(cases)} layers{few}")
        if ignored:
            print(f"ignored, not a known name: {', '.join(ignored)}")
    if failed:
        first = first_wrong(failed)
        print(
            f"{len(failed)} of {len(rows)} wrong. The most telling first, then in dataflow order:"
        )
        for row in [first, *(row for row in failed if row is not first)]:
            quantity = "" if row.quantity == "-" else f"{row.quantity} "
            print(f"  {row.layer}: {quantity}{row.problem}")
        for line in hints(cases[first.layer].functions[-1], first.quantity, arguments.hint):
            print(f"  {line}")
        if arguments.hint < HINTS[-1]:
            print(f"more about the first: --hint {arguments.hint + 1}")
        return 1
    worst_difference = max((row.difference_error or 0 for row in rows), default=0)
    worst_torch = max((row.torch_error or 0 for row in rows), default=0)
    of_torch = f", {worst_torch:.1e} against torch (limit {TORCH_TOLERANCE:g})"
    print(
        f"all {len(rows)} hold: worst error {worst_difference:.1e} against finite differences "
        f"(limit {DIFFERENCE_TOLERANCE:g}){'' if ABSENT else of_torch}"
    )
    return 0


def _no_nan(value):
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _print_rows(rows: list[Row], cases: Sequence[Case], header: bool) -> None:
    names = [name for case in cases for name in (*case.outputs, *case.differentiable)]
    width, quantity_width = max(len(case.name) for case in cases), 1 + max(map(len, names))

    def line(layer, quantity, difference, torch, verdict):
        print(
            f"{layer:<{width}}  {quantity:<{quantity_width}}{difference:>13}{torch:>10}  {verdict}",
            flush=True,
        )

    if header:
        line("layer", "quantity", "differences", "torch", "verdict")
    for row in rows:
        errors = (
            "" if error is None else f"{error:.1e}"
            for error in (row.difference_error, row.torch_error)
        )
        line(row.layer, row.quantity, *errors, "ok" if row.passed else "WRONG")


if __name__ == "__main__":
    run_command(main)
