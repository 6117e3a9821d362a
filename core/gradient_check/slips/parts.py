"""A formula with one of its parts wrong: a mean for a sum, another axis, a function left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_LEFT_OUT = ("np.tanh", "sigmoid", "np.exp", "np.log", "np.sqrt", "np.abs", "np.maximum")
_ACTIVATIONS = {"np.tanh": "tanh", "sigmoid": "a sigmoid"}
_SUMS = {"sum": "mean", "mean": "sum"}


def changed_parts(line: str) -> Iterator[tuple[str, str]]:
    """Words, and the formula that they are about, for each part that may be wrong.

    Inputs:
    - line: a formula, as Python writes an expression
    """
    for node in ast.walk(ast.parse(line, mode="eval")):
        start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", 0)

        def text(node: ast.AST) -> str:
            return line[node.col_offset : node.end_col_offset]

        for words, instead in _changed(node, text):
            yield words, f"{line[:start]}({instead}){line[end:]}"


def _changed(node: ast.AST, text) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call):
        yield from _calls(node, text)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield from _products(text(node.left), text(node.right))
    elif isinstance(node, ast.BinOp):
        yield from _operations(node, text)
    elif isinstance(node, ast.Name) and node.id == "t":
        yield "is one step off: t + 1 where t belongs", "t + 1"
        yield "is one step off: t - 1 where t belongs", "t - 1"


def _calls(node: ast.Call, text) -> Iterator[tuple[str, str]]:
    called, whole = text(node.func), text(node)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if method in _SUMS and called != f"np.{method}":
        inside, arguments = text(node.func.value), whole[len(called) :]
        yield (
            f"has a {_SUMS[method]} where a {method} belongs",
            f"({inside}).{_SUMS[method]}{arguments}",
        )
        for keyword in node.keywords:
            if keyword.arg == "axis":
                axis = text(keyword.value)
                for other in ("0", "1", "2", "-1", "-2", "(0, 1)", "(1, 2)"):
                    if other != axis:
                        instead = arguments.replace(f"axis={axis}", f"axis={other}")
                        yield (
                            f"has axis={other} where axis={axis} belongs",
                            f"({inside}).{method}{instead}",
                        )
                if axis in ("0", "1") and "keepdims" not in arguments:
                    for index, place in (("0", "first"), ("-1", "last")):
                        yield (
                            f"holds the {place} alone: the sum over axis {axis} is missing",
                            f"({inside})[{':, ' if axis == '1' else ''}{index}]",
                        )
        if method == "mean" and "axis=-1" in arguments:
            size = f"({inside}).shape[-1]"
            yield (
                "divides by n - 1 where a mean divides by n",
                f"({inside}).sum{arguments} / ({size} - 1)",
            )
    if called in ("softmax", *_ACTIVATIONS) and node.args:
        for factor in ("2", "0.5", "-1"):
            yield (
                f"has {factor} times what belongs in the {called}",
                f"{called}({factor} * ({text(node.args[0])}))",
            )
    if called in _LEFT_OUT and node.args:
        yield f"misses {called.removeprefix('np.')}", text(node.args[0])
    for other, words in _ACTIVATIONS.items():
        if called in _ACTIVATIONS and other != called:
            yield (
                f"has {words} where {_ACTIVATIONS[called]} belongs",
                f"{other}({text(node.args[0])})",
            )
    if called == "softmax":
        scores = text(node.args[0])
        largest = f"({scores}).max(axis=-1, keepdims=True)"
        yield "misses the softmax", scores
        yield "has a sigmoid where the softmax belongs", f"sigmoid({scores})"
        yield (
            "does not divide the exponentials by their sum, in the softmax",
            f"np.exp({scores} - {largest})",
        )
        yield "does not divide the exponentials by their sum, in the softmax", f"np.exp({scores})"
        for axis, place in ((0, "first"), (1, "second"), (2, "third")):
            yield (
                f"sums its softmax over the {place} axis, not over the last",
                f"np.moveaxis(softmax(np.moveaxis({scores}, {axis}, -1)), -1, {axis})",
            )


def _products(left: str, right: str) -> Iterator[tuple[str, str]]:
    """A sum over samples, or over samples and steps: the gradient of a weight."""
    rows = re.fullmatch(r"flat\((.*)\)\.T", left), re.fullmatch(r"flat\((.*)\)", right)
    a, b = (found[1] for found in rows) if all(rows) else (left.removesuffix(".T"), right)
    if not left.endswith(".T") or right.endswith(".T"):
        return
    cuts = [("[:1]", "first sample"), ("[-1:]", "last sample")]
    if all(rows):
        cuts += [("[:, :1]", "first time step"), ("[:, -1:]", "last time step")]
    for cut, place in cuts:
        instead = f"({a}){cut}.T @ ({b}){cut}"
        if all(rows):
            instead = f"flat(({a}){cut}).T @ flat(({b}){cut})"
        over = "time" if "step" in place else "the batch"
        yield f"holds the {place} alone: the sum over {over} is missing", instead


def _operations(node: ast.BinOp, text) -> Iterator[tuple[str, str]]:
    left, right = text(node.left), text(node.right)
    if isinstance(node.op, ast.Pow):
        yield f"misses the power {right} of {left}", left
        yield f"has the power -{right} of {left}", f"({left})**-({right})"
    elif isinstance(node.op, ast.Div):
        yield f"does not divide by {right}", left
        yield f"multiplies by {right} where it should divide", f"({left}) * ({right})"
        yield f"divides twice by {right}", f"({left}) / ({right})**2"
    elif isinstance(node.op, ast.Mult):
        yield f"misses the factor {left}", right
        yield f"misses the factor {right}", left
        yield f"adds {left} and {right} where it should multiply", f"({left}) + ({right})"
    elif isinstance(node.op, ast.Add | ast.Sub):
        minus = isinstance(node.op, ast.Sub)
        yield f"misses the term {left}", f"-({right})" if minus else right
        if left == "1" and minus:
            yield f"has {right} where 1 - {right} belongs", right
        yield f"misses the term {right}", left
        yield f"has the wrong sign before {right}", f"({left}) {'+' if minus else '-'} ({right})"
        yield f"multiplies by {right} where it should add", f"({left}) * ({right})"
