"""``--impl FILE.py``: which functions of a run are the learner's, and which of them are wrong.

``core/runs/in_place.py`` puts them in the place of ours.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core import optim
from core.gradient_check.apart import check_apart
from core.gradient_check.cases import CASES
from core.gradient_check.learner import Functions, load_implementation
from core.gradient_check.source import parse_source
from core.support.command_line import progress, quoted
from core.workbook.road import FUNCTIONS

_SECONDS = 10  # that the check before a training may take
WAYS = ("forward", "backward")
# What a model calls to learn, and to say a caption; and what our composite layers call.
_LEARNS = {
    "rnn": "affine word_embedding dropout rnn temporal_affine temporal_softmax_loss",
    "lstm": "affine word_embedding dropout lstm temporal_affine temporal_softmax_loss",
    "attention": "affine word_embedding dropout attention_lstm doubly_stochastic_loss "
    "temporal_affine temporal_softmax_loss",
    "transformer": "temporal_affine word_embedding dropout decoder_block layer_norm "
    "temporal_softmax_loss",
}
_SAYS = {
    "rnn": "affine word_embedding rnn_step",
    "lstm": "affine word_embedding lstm_step",
    "attention": "affine temporal_affine word_embedding attention_lstm_step",
    "transformer": "affine temporal_affine word_embedding dropout decoder_block layer_norm",
}
_CALLS = {
    "rnn": "rnn_step",
    "lstm": "lstm_step",
    "attention_lstm": "attention_lstm_step",
    "attention_lstm_step": "attend context_gate lstm_step",
    "decoder_block": "multi_head_attention feed_forward",
    "multi_head_attention": "scaled_dot_product_attention",
}


class Own:
    """A learner's file, and which of its functions take the place of ours.

    Inputs:
    - path: of the file, which is run
    - models: names of the models of the run
    - others: functions that it takes besides those of their layers, as an update rule
    - training: whether gradients are needed: a forward without its backward is then of no use

    Raises FileNotFoundError when there is no such file, ValueError when it cannot be imported or
    holds no function under a known name.
    """

    def __init__(
        self, path: str | Path, models: Sequence[str], others: Sequence[str], training: bool
    ):
        self.path, self.training = Path(path), training
        self.folder = os.getcwd()  # that of the run, wherever their functions go
        with _undone(self.path.name):
            found = load_implementation(self.path)
        source = self.path.read_bytes()
        self.sha256 = hashlib.sha256(source).hexdigest()
        known = {name: found[name] for name in FUNCTIONS if name in found}
        empty = parse_source(path, source).empty
        self.empty = [name for name in FUNCTIONS if name in empty]
        if not known and not self.empty:
            raise ValueError(
                f"--impl {path}: defines no function under a known name, expected names such as "
                f"{', '.join(FUNCTIONS[:3])}; python -m core.workbook new FILE.py writes them all"
            )
        self.halves = [name for name in known if training and _lacks_backward(name, known)]
        self.functions = Functions({n: f for n, f in known.items() if n not in self.halves})
        self.ignored = sorted(found.keys() - known.keys())
        self.used = self._used(models, others)

    # -- what is whose ------------------------------------------------------------------------

    def _used(self, models: Sequence[str], others: Sequence[str]) -> list[str]:
        """The functions that a run calls, theirs or ours, in the order of the road."""
        ways, calls = (WAYS, _LEARNS) if self.training else (WAYS[:1], _SAYS)
        called, waiting = set(others), [name for model in models for name in calls[model].split()]
        while waiting:
            name = waiting.pop()
            names = {name} if name in FUNCTIONS else {f"{name}_{way}" for way in ways}
            called |= names
            for part in _CALLS.get(name, "").split():
                # A composite of theirs calls what it likes, but nothing of ours.
                theirs = names <= self.functions.keys()
                if not theirs or f"{part}_forward" in self.functions:
                    waiting.append(part)
        return [*(name for name in FUNCTIONS if name in called), *sorted(called - {*FUNCTIONS})]

    @property
    def ours(self) -> list[str]:
        return [name for name in self.used if name not in self.functions]

    def lines(self) -> list[str]:
        """Which functions of a run are theirs and which ours, and what of the file is left out."""
        used, ours = self.used, self.ours
        yours = len(used) - len(ours)
        text = f"{yours} of {len(used)} functions are yours ({self.path.name}, --engine plain)"
        lines = [f"{text}; ours: {', '.join(ours) if yours else 'all'}" if ours else text]
        if empty := [name for name in used if name in self.empty]:
            lines.append(f"still empty, so ours: {_some(empty)}")
        if self.halves:
            lines.append(f"without its backward, so both are ours: {_some(self.halves)}")
        if others := [name for name in self.functions if name not in used]:
            lines.append(f"not used by this run: {_some(others)}")
        missing = [name for name in FUNCTIONS if name not in self.functions]
        guesses = {
            name: close[0]
            for name in self.ignored
            if (close := difflib.get_close_matches(name, missing, 1, 0.85))
        }
        if guesses:
            meant = (f"{name} (did you mean {guess}?)" for name, guess in guesses.items())
            lines.append(f"ignored, no known name: {', '.join(meant)}")
        helpers = [n for n in self.ignored if n not in guesses and not n.startswith("_")]
        if helpers:
            lines.append(
                f"only for your own functions, as none of ours has that name: {_some(helpers)}"
            )
        return lines

    def record(self, last) -> dict:
        """What a checkpoint says of the file; ``last``: the checkpoint that a run goes on from."""
        now = self.functions.keys() & set(self.used)
        before = last.settings["impl"] if last else {}
        yours = now & set(before.get("functions", now))
        changed = list(before.get("changed_after", []))
        if before and before["sha256"] != self.sha256:
            changed.append(last.training["epoch"])
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "functions": [name for name in self.used if name in yours],
            "ours": sorted({*self.used, *before.get("ours", ())} - yours),
            "changed_after": changed,
        }

    # -- the check before a training ----------------------------------------------------------

    def warn_of_wrong(self, variants: set[str]) -> None:
        """A warning for each case of the gradient check that does not hold; training goes on.

        ``variants``: of the cases that check an option ('gelu', ...), those that this run needs.
        """
        theirs = self.functions.keys() & set(self.used)
        cases = [
            case
            for case in CASES
            if theirs & set(case.functions)
            and all(
                v in variants
                for v in ("gelu", "post_norm", "dropout")
                if case.name.endswith(f"_{v}")
            )
        ]
        if not cases:
            return
        # What it prints has been seen, when it was imported here.
        nothing = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        checked = check_apart(self.path, cases, 0, nothing)
        try:
            next(checked)
            started = time.monotonic()
            for n, case in enumerate(progress(cases, "checking your functions")):
                if time.monotonic() - started > _SECONDS:
                    rest = ", ".join(case.name for case in cases[n:])
                    warnings.warn(f"{self.path.name}: no time to check {rest}", stacklevel=2)
                    break
                rows = next(checked)
                relevant = (r for r in rows if self.training or r.quantity not in _gradients(case))
                if wrong := next((row for row in relevant if not row.passed), None):
                    warnings.warn(self._warning(case, wrong), stacklevel=2)
        except ValueError as error:
            warnings.warn(f"{error}; it was not checked", stacklevel=2)
        finally:
            checked.close()

    def _warning(self, case, row) -> str:
        name = case.functions[-1 if row.quantity in _gradients(case) else 0]
        problem = row.problem if row.quantity == "-" else f"{name}, {row.quantity} {row.problem}"
        return f"{self.path.name}: {problem}; it is used all the same, see {self.command(name)}"

    def command(self, name: str) -> str:
        case = next((case.name for case in CASES if name in case.functions), name)
        return f"python -m core.gradient_check --impl {quoted(self.path)} --layer {case}"

    def line_of(self, name: str) -> int:
        """The line of the file, or of another that it imports, in which a function begins."""
        code = getattr(inspect.unwrap(self.functions[name]), "__code__", None)
        return code.co_firstlineno if code else 1


def of_training(settings: Mapping) -> Own:
    """The learner's functions in a run of ``training.py``, by its settings."""
    others = [settings["update_rule"]]
    others += ["clip_gradient_norm"] if settings["clip_norm"] else []
    others += ["beam_search"] if settings["select"] != "loss" else []
    others += ["positional_encoding"] if settings["positions"] == "sinusoidal" else []
    return Own(settings["impl"]["file"], [settings["model"]], others, training=True)


def variants_of(settings: Mapping) -> set[str]:
    """What a run has that is checked by cases of its own."""
    found = {settings["activation"]}
    found |= {"post_norm"} if settings["post_norm"] else set()
    return found | ({"dropout"} if settings["dropout"] else set())


def of_captioning(path: str, checkpoints: Sequence, decode: str) -> Own:
    """The learner's functions in a run of ``inference.py``."""
    others = ["beam_search" if decode == "beam" else decode]
    if any(each.config.get("positions") == "sinusoidal" for each in checkpoints):
        others.append("positional_encoding")
    return Own(path, [each.model for each in checkpoints], others, training=False)


@contextmanager
def _undone(name: str) -> Iterator[None]:
    """What a file changes of this process while it is imported is put back, and said if ours."""
    folder, places = os.getcwd(), {"core.optim.RULES": optim.RULES}
    places |= {n: vars(m) for n, m in sys.modules.items() if f"{n}.".startswith("core.")}
    before = {place: dict(names) for place, names in places.items()}
    try:
        with np.errstate(), warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        changed = [
            f"{place}.{key}"
            for place, names in before.items()
            for key, value in names.items()
            if places[place].get(key, names) is not value
        ]
        for place, names in before.items():
            places[place].update(names)
    if changed:
        warnings.warn(
            f"{name}: changes {_some(changed)}, which is as it was again; a function under a known "
            "name is enough",
            stacklevel=3,
        )


def _lacks_backward(name: str, known: Mapping) -> bool:
    return name.endswith("_forward") and f"{name.removesuffix('_forward')}_backward" not in known


def _gradients(case) -> set[str]:
    return {f"d{name}" for name in case.differentiable}


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
