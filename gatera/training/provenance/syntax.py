"""A hash of what source code says: of its syntax tree, equal on every Python.

`ast.dump` will not do: what it prints of one source differs among Pythons. Imports nothing but the
standard library, so that any Python can be asked.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from typing import Any

# Spelling and bookkeeping: `ctx` follows from where a node stands, `kind` is the u of u"".
_LEFT_OUT_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}


def tree_sha256(source: bytes | str) -> str:
    """Return the SHA-256 of a module's syntax tree, in hex.

    Left out are comments, docstrings and other statements that are a mere string, positions, import
    statements, blocks under TYPE_CHECKING, `pass`, and `__all__`.

    Raises:
        SyntaxError: this Python cannot read the source.
    """
    return node_sha256(ast.parse(source))


def node_sha256(node: ast.AST) -> str:
    """Return the SHA-256 of a tree as `tree_sha256` does of a module's."""
    written: list[str] = []
    _write_node(node, written)
    return hashlib.sha256("".join(written).encode("utf-8", "surrogatepass")).hexdigest()


def kept_statements(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements that have a say when the code runs, imports among them.

    In place of an `if TYPE_CHECKING` stand the statements of its `else`.
    """
    kept: list[ast.stmt] = []
    for statement in statements:
        if isinstance(statement, ast.If) and _is_type_checking(statement.test):
            kept += kept_statements(statement.orelse)
        elif not (isinstance(statement, ast.Pass) or _is_text(statement) or _exports(statement)):
            kept.append(statement)
    return kept


def _is_type_checking(test: ast.expr) -> bool:
    if isinstance(test, ast.Attribute):
        return test.attr == "TYPE_CHECKING"
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _is_text(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        return False
    return isinstance(statement.value.value, str)


def _exports(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign):
        return False
    return any(isinstance(name, ast.Name) and name.id == "__all__" for name in statement.targets)


def _write_node(node: ast.AST, written: list[str]) -> None:
    kind = type(node)
    if isinstance(node, (ast.Constant, ast.MatchSingleton)):  # whose value may be None
        written.append(f"({kind.__name__} {_constant(node.value)})")
        return
    written.append(f"({kind.__name__}")
    for name, label in _fields(kind):  # type: ignore[arg-type] # for mypy, a class has no hash
        value = getattr(node, name, None)
        if isinstance(value, list):
            value = _kept(node, value)
            if value:
                written.append(label)
                _write_list(value, written)
        elif isinstance(value, ast.AST):
            if name != "format_spec" or _joined(value.values):  # type: ignore[attr-defined]
                written.append(label)  # f"{x:}" is f"{x}"
                _write_node(value, written)
        elif value is not None:
            written.append(label + _constant(value))
    written.append(")")


@functools.cache
def _fields(kind: Any) -> list[tuple[str, str]]:
    """Return the names of the fields of a class of nodes, and how they are written.

    Sorted, since a later Python may put a new one, empty here, among them.
    """
    return [(name, f" {name}=") for name in sorted(set(kind._fields) - _LEFT_OUT_FIELDS)]


def _write_list(values: list[Any], written: list[str]) -> None:
    written.append("[")
    for value in values:
        if isinstance(value, ast.AST):
            _write_node(value, written)
        else:
            written.append(_constant(value))
        written.append(",")
    written.append("]")


def _kept(node: ast.AST, values: list[Any]) -> list[Any]:
    """Return a node's list without what is left out of it."""
    if not values or not isinstance(values[0], ast.stmt):
        return _joined(values) if _is_joined(node) else values
    return [
        statement
        for statement in kept_statements(values)
        if not isinstance(statement, (ast.Import, ast.ImportFrom))
    ]


def _is_joined(node: ast.AST) -> bool:
    return type(node).__name__ in ("JoinedStr", "TemplateStr")


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring texts as one and empty ones dropped."""
    joined: list[ast.expr] = []
    for value in values:
        if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
            joined.append(value)
        elif joined and isinstance(joined[-1], ast.Constant):
            joined[-1] = ast.Constant(f"{joined[-1].value!s}{value.value}")
        elif value.value:
            joined.append(value)
    return joined


def _constant(value: Any) -> str:
    """Write a value so that no other value, of whatever type, is written the same."""
    if value is None or value is Ellipsis or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        return f"str{len(value)}:{value}"
    if isinstance(value, bytes):
        return f"bytes:{value.hex()}"
    if isinstance(value, int):
        return f"int:{value:x}"
    if isinstance(value, float):
        return f"float:{value.hex()}"
    if isinstance(value, complex):
        return f"complex:{value.real.hex()}:{value.imag.hex()}"
    if isinstance(value, tuple):
        return f"tuple({','.join(map(_constant, value))})"
    if isinstance(value, frozenset):
        return f"frozenset({','.join(sorted(map(_constant, value)))})"
    raise TypeError(
        f"a syntax tree holds {value!r}, a {type(value).__name__}, which source code cannot; hash "
        "a tree that ast.parse made."
    )
