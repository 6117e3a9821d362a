"""Code as text, never run: what a file defines and where, what is empty, what uses what."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# A caller may reach any name of the file by its text.
_REACHES_ALL = {"globals", "vars", "eval", "exec", "sys", "importlib"}
_COMPOUND = ast.If | ast.Try | ast.With | ast.For | ast.While


@dataclass(frozen=True)
class Source:
    """What the text of a file says.

    - lines: of each name that it binds, the line where it does so last
    - empty: functions with no code but ``raise NotImplementedError``, ``pass`` or ``...``
    - code: of each function and class its code, which comments and docstrings do not change
    - uses: of each function and class the names in it
    - rest, rest_uses: the same of what is in none of them
    """

    lines: dict[str, int]
    empty: frozenset[str]
    code: dict[str, str]
    uses: dict[str, frozenset[str]]
    rest: str
    rest_uses: frozenset[str]

    def changed_since(self, before: Source) -> set[str]:
        """The functions and classes that may do something else than they did before.

        Those whose code changed and those that use such a one, through others too; all of them when
        code outside of functions changed.
        """
        everything = set(self.code) | set(before.code)
        changed = {name for name in everything if self.code.get(name) != before.code.get(name)}
        while True:
            if self.rest != before.rest or self.rest_uses & changed:
                return everything
            more = {name for name in set(self.code) - changed if self.uses[name] & changed}
            more |= {name for name in set(self.code) - changed if self.uses[name] & _REACHES_ALL}
            if not changed or not more:
                return changed
            changed |= more


def read_source(path: str | Path) -> Source:
    """Reads a Python file.

    Raises FileNotFoundError when there is no such file, ValueError, with the line, when it is not
    Python.
    """
    return parse_source(path, Path(path).read_bytes())


@lru_cache(2)  # loading a file asks twice
def parse_source(path: str | Path, text: bytes) -> Source:
    """As ``read_source``, of text that was read from ``path``."""
    if b"\0" in text:
        raise ValueError(f"{path}: found bytes of 0, expected text in UTF-8: save it as that")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise ValueError(f"{path}: {line}{error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path}: is not a Python file ({error})") from error
    lines, empty, code, uses, rest = {}, set(), {}, {}, []
    for node in _statements(tree.body):
        for name in _bound(node):
            lines[name] = node.lineno
            empty.discard(name)
        if isinstance(node, ast.FunctionDef) and _is_empty(node):
            empty.add(node.name)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # one that is defined twice has the code of both
            code[node.name] = code.get(node.name, "") + _code(node)
            uses[node.name] = uses.get(node.name, frozenset()) | _names([node])
        else:
            rest.append(node)
    return Source(lines, frozenset(empty), code, uses, "\n".join(map(_code, rest)), _names(rest))


def without_docstring(code: str) -> str:
    """Source of one function or class -> the same without the string that begins its body."""
    body = ast.parse(code).body[0].body
    first = body[0]
    if not _is_docstring(first) or len(body) == 1:
        return code
    lines = code.split("\n")
    return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of the module itself, also within an ``if`` or a ``try``."""
    for node in body:
        yield node
        if isinstance(node, _COMPOUND):
            for part in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(node, part, []):
                    yield from _statements(
                        inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
                    )


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [each.id for each in targets if isinstance(each, ast.Name)]
    return []


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_empty(function: ast.FunctionDef) -> bool:
    for node in function.body:
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
        is_ellipsis = isinstance(node, ast.Expr) and (
            isinstance(node.value, ast.Constant) and node.value.value is ...
        )
        if not (_is_docstring(node) or isinstance(node, ast.Pass) or is_ellipsis):
            return False
    return True


def _code(node: ast.stmt) -> str:
    """The code without comments, docstring and places."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_docstring(node.body[0]):
        node = type(node)(**{**vars(node), "body": node.body[1:]})
    return ast.dump(node)


def _names(nodes: Iterable[ast.AST]) -> frozenset[str]:
    return frozenset(
        each.id for node in nodes for each in ast.walk(node) if isinstance(each, ast.Name)
    )
