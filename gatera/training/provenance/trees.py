"""Reading a module's syntax tree: its imports, its tables, and the module with fewer entries."""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterable, Iterator

from gatera.training.provenance.syntax import kept_statements


def import_statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements in a tree, but those under TYPE_CHECKING."""
    if isinstance(tree, (ast.Import, ast.ImportFrom)):
        yield tree
        return
    for _, value in ast.iter_fields(tree):
        if not (isinstance(value, list) and value and isinstance(value[0], ast.AST)):
            continue
        within = kept_statements(value) if isinstance(value[0], ast.stmt) else value
        for child in within:
            if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                yield from import_statements(child)


def table_name(statement: ast.stmt) -> str | None:
    """Return the name that a statement gives to a dict literal; None where it does not."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        return None
    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
        return None
    return targets[0].id if isinstance(statement.value, ast.Dict) else None


def table_literal(statement: ast.stmt) -> ast.Dict:
    assert isinstance(statement, (ast.Assign, ast.AnnAssign))
    assert isinstance(statement.value, ast.Dict)
    return statement.value


def key_text(key: ast.expr | None) -> str | None:
    """Return the text that a key is; None for one that is computed."""
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def with_entries(tree: ast.Module, variable: str, keys: Collection[str]) -> ast.Module:
    """Return a module whose table has the entries of `keys` alone, and computed ones.

    Without what only the other entries read: imports, and private definitions.
    """
    body: list[ast.stmt] = []
    unread: set[str] = set()
    for statement in tree.body:
        if table_name(statement) == variable:
            table = table_literal(statement)
            entries = list(zip(table.keys, table.values, strict=True))
            kept = [(k, v) for k, v in entries if key_text(k) is None or key_text(k) in keys]
            unread |= _read(v for k, v in entries if (k, v) not in kept)
            statement = copy.copy(statement)
            statement.value = ast.Dict([k for k, _ in kept], [v for _, v in kept])  # type: ignore[attr-defined]
        body.append(statement)
    return ast.Module(_without_unread(body, unread), [])


def _without_unread(body: list[ast.stmt], names: set[str]) -> list[ast.stmt]:
    """Return the statements without those that bind nothing but `names` that no other reads.

    What those read goes the same way.
    """
    reads = [(statement, _read([statement])) for statement in body]
    while True:
        for place, (statement, _) in enumerate(reads):
            bound = bound_names(statement)
            others = reads[:place] + reads[place + 1 :]
            if bound and bound <= names and not any(bound & read for _, read in others):
                names |= reads[place][1]
                reads = others
                break
        else:
            return [statement for statement, _ in reads]


def bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that an import, or the definition of private names, binds; else none."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        names = [statement.name]
    elif isinstance(statement, ast.Assign):
        names = [target.id if isinstance(target, ast.Name) else "" for target in statement.targets]
    else:
        return set()
    return set(names) if all(name.startswith("_") for name in names) else set()


def _read(trees: Iterable[ast.AST]) -> set[str]:
    """Return the names that are read somewhere in these trees."""
    return {
        node.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
