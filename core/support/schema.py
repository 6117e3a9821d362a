"""What a value that was read must be: its type, its range, its parts. One description, one check.

``config.json``, what is inside a checkpoint, and the options of the commands are described in
``core/support/declared.py`` with these. A description has ``fault(value)``: what is wrong with it
("is 'x', expected a whole number of at least 1"), or None.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Whole:
    """A whole number; True and False are none."""

    low: int = 0
    high: int = 10**9

    def fault(self, value) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool)
        if fits and self.low <= value <= self.high:
            return None
        return f"is {shown(value)}, expected {self}"

    def __str__(self) -> str:
        return f"a whole number of at least {self.low} and at most {self.high:,}"


@dataclass(frozen=True)
class Number:
    """A finite number.

    - low, high: its bounds
    - beyond: whether it must be above ``low``
    - below: whether it must be below ``high``
    """

    low: float = -math.inf
    high: float = math.inf
    beyond: bool = False
    below: bool = False

    def fault(self, value) -> str | None:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if fits and self.low <= value <= self.high and abs(value) <= _LARGEST:  # not so: NaN
            edges = (self.low if self.beyond else None, self.high if self.below else None)
            if value not in edges:
                return None
        return f"is {shown(value)}, expected {self}"

    def __str__(self) -> str:
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"{'above' if self.beyond else 'of at least'} {self.low:g}")
        if self.high < math.inf:
            bounds.append(f"{'below' if self.below else 'at most'} {self.high:g}")
        return " ".join(["a number", " and ".join(bounds)]).rstrip()


@dataclass(frozen=True)
class Text:
    """Text; ``name``: which can be the name of a file."""

    name: bool = False

    def fault(self, value) -> str | None:
        fits = isinstance(value, str)
        if fits and self.name:
            try:
                fits = b"\0" not in os.fsencode(value)
            except UnicodeEncodeError:
                fits = False
        return None if fits else f"is {shown(value)}, expected {self}"

    def __str__(self) -> str:
        return "the name of a file" if self.name else "text"


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def fault(self, value) -> str | None:
        return None if isinstance(value, bool) else f"is {shown(value)}, expected true or false"


@dataclass(frozen=True)
class OneOf:
    """One of some words."""

    words: Sequence[str]

    def fault(self, value) -> str | None:
        if isinstance(value, str) and value in self.words:
            return None
        return f"is {shown(value)}, expected {self}"

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Optional:
    """Nothing, or what another description says."""

    kind: object

    def fault(self, value) -> str | None:
        return None if value is None else self.kind.fault(value)

    def __str__(self) -> str:
        return str(self.kind)


@dataclass(frozen=True)
class ListOf:
    """A list whose entries are alike; ``length``: of so many, None for any number."""

    kind: object
    length: int | None = None

    def fault(self, value) -> str | None:
        if not isinstance(value, list):
            return f"is {shown(value)}, expected a list"
        if self.length is not None and len(value) != self.length:
            return f"has {len(value)} entries, expected {self.length}"
        found = ((i, self.kind.fault(each)) for i, each in enumerate(value))
        return next((f"entry {i} {fault}" for i, fault in found if fault), None)


@dataclass(frozen=True)
class Entries:
    """An object with entries of certain names.

    - kinds: what each is
    - required: names that must be there
    - others: whether there may be entries of other names, as of another version
    """

    kinds: Mapping[str, object]
    required: Sequence[str] = ()
    others: bool = False

    def fault(self, value) -> str | None:
        if not isinstance(value, dict):
            return f"is {shown(value)}, expected an object"
        for name in self.required:
            if name not in value:
                return f"has no {name}"
        for name, each in value.items():
            if name not in self.kinds:
                if self.others:
                    continue
                return f"has {shown(name)}, which this version does not know"
            if fault := self.kinds[name].fault(each):
                return f"{name} {fault}"
        return None


@dataclass(frozen=True)
class Each:
    """An object with entries of any names that are alike."""

    kind: object

    def fault(self, value) -> str | None:
        if not isinstance(value, dict):
            return f"is {shown(value)}, expected an object"
        found = ((name, self.kind.fault(each)) for name, each in value.items())
        return next((f"{shown(name)} {fault}" for name, fault in found if fault), None)


def plain(kind):
    """A description without the ``Optional`` around it."""
    return kind.kind if isinstance(kind, Optional) else kind


def shown(value) -> str:
    """A value in a message: short, and in letters that any terminal has."""
    text = ascii(value) if isinstance(value, str | int | float | None) else type(value).__name__
    if isinstance(value, list | dict):
        text = f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return text if len(text) <= 40 else f"{text[:37]}..."
