"""A layer as a list of lines, so that a line can be made wrong: the slips are made, not guessed.

A line is text, ``name = term + term``, and a term is ``factor * factor``; the spaces part terms and
factors. From a right line come the slips of every kind: a term dropped, doubled or of the wrong
sign, a factor dropped. Those that have a name of their own are given with their words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

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
        space = dict(_TOOLS)
        exec(self._code(), space)
        return space["formulas"](*values)

    def _code(self) -> str:
        body = [f"{self.unpack} = cache"] if self.unpack else []
        body += [f"{name} = {line}" for name, line in self.lines.items()]
        body.append(f"return {self.returns}")
        return f"def formulas({self.arguments}):\n" + "".join(f"    {line}\n" for line in body)

    def but(self, **lines: str) -> Formulas:
        """The same with other lines."""
        return replace(self, lines={**self.lines, **lines})

    def slips(self) -> Iterator[tuple[str, Callable]]:
        """Each line with a term or a factor wrong, with the words for it."""
        for name, line in self.lines.items():
            terms = line.split(" + ")
            for i, term in enumerate(terms):
                bare = term.lstrip("-")

                def other(*instead: str, i=i, name=name, terms=terms) -> Formulas:
                    return self.but(**{name: " + ".join([*terms[:i], *instead, *terms[i + 1 :]])})

                if len(terms) > 1:
                    yield f"misses a term: {bare} in {name}", other()
                    yield f"counts a term twice: {bare} in {name}", other(term, term)
                    yield f"has a wrong sign in a term: {bare} in {name}", other(f"-({term})")
                else:
                    yield f"has the wrong sign: check {name}", other(f"-({term})")
                factors = term.split(" * ")
                if len(factors) == 1:
                    continue
                for j, factor in enumerate(factors):
                    rest = " * ".join([*factors[:j], *factors[j + 1 :]])
                    yield f"misses a factor: {factor} in {name}", other(rest)
                    yield (
                        f"has a factor twice: {factor} in {name}",
                        other(f"{term} * {factor}"),
                    )


Named = Sequence[tuple[str, dict[str, str]]]


def slips_from(right: Formulas, named: Named = ()) -> list[tuple[str, Callable]]:
    """Those with a name first: their words say more."""
    return [*((hint, right.but(**lines)) for hint, lines in named), *right.slips()]
