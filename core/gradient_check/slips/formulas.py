"""A layer as a list of lines, so that a line can be made wrong: the slips are made, not guessed.

A line is text, ``name = term + term``, and a term is ``factor * factor``; the spaces part terms and
factors. From a right line come the slips of every kind: a term dropped, doubled or of the wrong
sign, a factor dropped or left out of one term; then, in every part of it (``parts.py``), a sum for
a mean, another axis, a function left out. Those that have a name of their own are given with their
words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from core.gradient_check.slips.parts import changed_parts
from core.layers import sigmoid, softmax
from core.support.erf import erf

Array = np.ndarray


def flat(x: Array) -> Array:
    """The rows of x: (N, T, D) -> (N T, D)."""
    return x.reshape(-1, x.shape[-1])


def heads(x: Array, like: Array) -> Array:
    """(N, T, E) -> (N, h, T, d), cut as ``like`` (N, h, ., d) is."""
    return x.reshape(*x.shape[:2], like.shape[1], like.shape[3]).swapaxes(1, 2)


def merged(x: Array) -> Array:
    """(N, h, T, d) -> (N, T, E)."""
    return x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1)


def swap(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def onehot(y: Array, like: Array) -> Array:
    out = np.zeros_like(like)
    np.put_along_axis(out, y[..., None], 1, axis=-1)
    return out


def count(ids: Array, dout: Array, like: Array) -> Array:
    out = np.zeros_like(like)
    np.add.at(out, ids, dout)
    return out


_TOOLS = {
    "np": np, "sigmoid": sigmoid, "softmax": softmax, "erf": erf, "flat": flat, "heads": heads,
    "merged": merged, "swap": swap, "onehot": onehot, "count": count,
}  # fmt: skip


@dataclass(frozen=True)
class Formulas:
    """A function as text: called, it computes line by line.

    - arguments: as Python writes them
    - unpack: what stands left of ``= cache``, or ''
    - lines: name of a quantity -> its formula, in order
    - returns: what is returned, as Python writes it
    """

    arguments: str
    unpack: str
    lines: dict[str, str]
    returns: str

    def __call__(self, *values):
        return _compiled(self._code(self.returns))(*values)

    def shapes(self, *values) -> dict[str, tuple[int, ...]]:
        """The shape of each array or number that a call makes or reads, by name."""
        space = _compiled(self._code("dict(locals())"))(*values)
        kinds = np.ndarray, np.floating, float
        return {n: np.shape(v) for n, v in space.items() if isinstance(v, kinds)}

    def _code(self, returns: str) -> str:
        body = [f"{self.unpack} = cache"] if self.unpack else []
        body += [f"{name} = {line}" for name, line in self.lines.items()]
        body.append(f"return {returns}")
        return f"def formulas({self.arguments}):\n" + "".join(f"    {line}\n" for line in body)

    def but(self, **lines: str) -> Formulas:
        """The same with other lines."""
        return replace(self, lines={**self.lines, **lines})

    def slips(self) -> Iterator[tuple[str, Callable]]:
        """Each line with a term or a factor wrong, with the words for it."""
        for name, line in self.lines.items():
            terms = _split(line, " + ")
            for i, term in enumerate(terms):
                bare = term.lstrip("-")
                sign = term[: len(term) - len(bare)]

                def other(*instead: str, i=i, name=name, terms=terms) -> Formulas:
                    return self.but(**{name: " + ".join([*terms[:i], *instead, *terms[i + 1 :]])})

                if len(terms) > 1:
                    yield f"misses a term: {bare} in {name}", other()
                    yield f"counts a term twice: {bare} in {name}", other(term, term)
                    yield f"has a wrong sign in a term: {bare} in {name}", other(f"-({term})")
                else:
                    yield f"has the wrong sign: check {name}", other(f"-({term})")
                parts = _split(term, " @ ")
                for j, part in enumerate(parts if len(parts) > 1 else ()):
                    rest = " @ ".join([*parts[:j], *parts[j + 1 :]])
                    yield f"misses the product with {part}: {name} = {line}", other(rest)
                    turned = part.removesuffix(".T") if part.endswith(".T") else f"{part}.T"
                    instead = " @ ".join([*parts[:j], turned, *parts[j + 1 :]])
                    yield f"has {turned} where {part} belongs: {name} = {line}", other(instead)
                factors = _split(bare, " * ")
                if len(factors) == 1:
                    continue
                for j, factor in enumerate(factors):
                    rest = " * ".join([*factors[:j], *factors[j + 1 :]])
                    yield (
                        f"misses a factor: {factor} in {_of(bare, name, terms)}",
                        other(sign + rest),
                    )
                    yield (
                        f"has a factor twice: {factor} in {name}",
                        other(f"{term} * {factor}"),
                    )
            yield from self._left_out(name, line)
            yield from self._outside(name, line)
        every: dict[str, dict[str, str]] = {}  # the same slip in several lines
        for name, line in self.lines.items():
            for words, instead in changed_parts(line):
                yield f"{words}: {name} = {line}", self.but(**{name: instead})
                every.setdefault(words, {}).setdefault(name, instead)
        for words, lines in every.items():
            if len(lines) > 1:
                *names, last = lines
                yield f"{words}, in {', '.join(names)} and {last}", self.but(**lines)

    def _left_out(self, name: str, line: str) -> Iterator[tuple[str, Callable]]:
        """A factor of a whole sum that one of its terms does not get."""
        factors = _split(line, " * ")
        for j, whole in enumerate(factors):
            terms = _split(self.lines.get(whole, ""), " + ")
            if inline := re.fullmatch(r"\((\S+) - (\S+)\)", whole):
                terms = [inline[1], f"-{inline[2]}"]
            others = [*factors[:j], *factors[j + 1 :]]
            for i, term in enumerate(terms if len(terms) > 1 else ()):
                rest = " + ".join([*terms[:i], *terms[i + 1 :]])
                for factor in others:
                    fewer = " * ".join([term, *(each for each in others if each != factor)])
                    instead = f"({rest}) * {' * '.join(others)} + {fewer}"
                    bare = term.lstrip("-")
                    words = f"does not multiply all of {whole} by {factor}: {bare} is left as it is"
                    yield words, self.but(**{name: instead})

    def _outside(self, name: str, line: str) -> Iterator[tuple[str, Callable]]:
        """A term of a sum that a function should get, added after it."""
        called = re.fullmatch(r"(.* )?(np\.tanh|sigmoid|np\.maximum)\((\w+)(, 0)?\)", line)
        if not called:
            return
        before, function, whole, zero = called.groups(default="")
        terms = _split(self.lines.get(whole, ""), " + ")
        for i, term in enumerate(terms if len(terms) > 1 else ()):
            rest = " + ".join([*terms[:i], *terms[i + 1 :]])
            for late, inside in ((term, rest), (rest, term)):
                instead = f"{before}({function}({inside}{zero}) + {late})"
                words = f"adds {late} after the {function.removeprefix('np.')}: {whole} holds it"
                yield words, self.but(**{name: instead})

    def exchanges(self, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Formulas]]:
        """Each line with one array in the place of another of its shape, known at that line.

        Then with two exchanged, with one more added, and one alone.
        """
        known = [name for name in shapes if name not in self.lines]
        word = r"(?<![\w.])[A-Za-z_]\w*"
        for name, line in self.lines.items():
            for found in re.finditer(word, line):
                right = found.group()
                for wrong in known if right in known else ():
                    shape, rows = shapes[right], shapes[wrong]
                    if wrong == right or rows not in (shape, shape[:1] + shape[2:]):
                        continue
                    same = rows == shape
                    put = wrong if same else f"np.broadcast_to({wrong}[:, None], {right}.shape)"
                    instead = line[: found.start()] + put + line[found.end() :]
                    put = wrong if same else f"{wrong}[:, None]"
                    words = f"has {put} where {right} belongs: {name} = {line}"
                    yield words, self.but(**{name: instead})
                    if line.count(right) > 1:
                        instead = re.sub(rf"(?<![\w.]){right}\b", wrong, line)
                        yield f"{words}, everywhere", self.but(**{name: instead})
            terms = _split(line, " + ")
            for number in (each for each in known if shapes[each] == ()):
                for i, term in enumerate(terms):
                    instead = [*terms[:i], f"{term} * {number}", *terms[i + 1 :]]
                    words = f"multiplies {term.lstrip('-')} by {number} too: {name} = {line}"
                    yield words, self.but(**{name: " + ".join(instead)})
            inside = sorted(set(re.findall(word, line)) & set(known))
            for one, other in itertools.combinations(inside, 2):
                if shapes[one] == shapes[other]:
                    turn = {one: other, other: one}
                    instead = re.sub(word, lambda m, t=turn: t.get(m[0], m[0]), line)
                    words = f"has {one} and {other} exchanged: {name} = {line}"
                    yield words, self.but(**{name: instead})
            for more in known:
                if name in shapes and shapes[more] == shapes[name]:
                    yield f"adds {more}: {name} = {line}", self.but(**{name: f"{line} + {more}"})
                    yield f"is {more} alone: {name} = {line}", self.but(**{name: more})
            if name in shapes:
                known.append(name)


def _split(text: str, mark: str) -> list[str]:
    """The parts of a formula between marks that are in no bracket."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if not depth and text.startswith(mark, i):
            parts.append(text[start:i])
            start = i + len(mark)
    return [*parts, text[start:]]


def _of(term: str, name: str, terms: Sequence[str]) -> str:
    """A line, or that term of it."""
    return name if len(terms) == 1 else f"the term {term} of {name}"


@cache
def _compiled(code: str) -> Callable:
    space = dict(_TOOLS)
    exec(code, space)
    return space["formulas"]


Named = Sequence[tuple[str, dict[str, str]]]


def slips_from(right: Formulas, named: Named = ()) -> list[tuple[str, Callable]]:
    """Those with a name first: their words say more."""
    return [*((hint, right.but(**lines)) for hint, lines in named), *right.slips()]
