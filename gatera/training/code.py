"""Which code a trial's result depends on: files of this package, each with the hash of its tree.

Found in the source by following import statements, those in functions too, from where training and
scoring begin. What a configuration chooses by a name counts only where it is chosen: `_MODULES` and
`_TABLES` say where that is so. Loads no torch and imports nothing of what it reads.

Two things it cannot see: an import statement that gives another thing the same name, since import
lines are left out of the hashes, and an import by `importlib`.
"""

from __future__ import annotations

import ast
import copy
import functools
import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatera.training.syntax import kept_statements, node_sha256, tree_sha256

__all__ = [
    "answering_code",
    "changed_files",
    "files_sha256",
    "read_sources",
    "scoring_code",
    "training_code",
    "tree_sha256",
]

_PACKAGE = Path(__file__).resolve().parent.parent

_TRAINING_ROOTS = ("gatera.training.trainer",)
_SCORING_ROOTS = ("gatera.training.scorer",)
_ANSWERING_ROOTS = ("gatera.training.scoring", "gatera.training.adapting")

# Modules that no number in a result depends on; neither they nor what they import counts.
_WITHOUT_SAY = (
    "gatera",  # looks names up when they are touched
    "gatera.settings",  # what they say stands in the configuration
    "gatera.declaring",
    "gatera.trial",  # what it hands to training and scoring stands in the keys
    "gatera.errors",  # classes of exceptions, which no result comes from
    "gatera.training.files",  # names of files
    "gatera.training.progress",  # what others follow a trial by
    "gatera.training.fitting",  # loads training and scoring, and calls them
    "gatera.training",  # hands its arguments on to a root
    "gatera.training.code",  # describe the code, and so on
    "gatera.training.syntax",
    "gatera.training.provenance",
    "gatera.training.gpus",
    "gatera.backbones.architectures",  # shapes without weights, to count parameters beforehand
)


@dataclass(frozen=True)
class Names:
    """The names by which a configuration chooses code. None, of a delta or a gate: all count.

    All count for a class of one's own, which may derive from any that ships.
    """

    adapted: bool  # False: the frozen backbone
    delta: frozenset[str] | None
    gate: frozenset[str] | None
    backbone: str
    template: str
    embedded_tasks: frozenset[str]
    real_tasks: frozenset[str]
    knowledge: str | None


# Modules that count, with all that is under them, only where this holds.
_MODULES: Mapping[str, Callable[[Names], bool]] = {
    "gatera.adapter": lambda names: names.adapted,
    "gatera.backbones.tiny": lambda names: names.backbone == "tiny",
    "gatera.backbones.smollm2": lambda names: names.backbone == "smollm2",
    "gatera.backbones.hub": lambda names: names.backbone not in ("tiny", "smollm2"),
    "gatera.tasks.tiny": lambda names: bool(names.embedded_tasks),
    "gatera.tasks.commonsense": lambda names: bool(names.real_tasks),
    "gatera.tasks.hub": lambda names: bool(names.real_tasks),
    "gatera.tasks.held_out": lambda names: names.knowledge == "world",
}

# (module, its table) -> the keys whose entries count; None: all. What only other entries read, an
# import or a private definition, does not count either.
_TABLES: Mapping[tuple[str, str], Callable[[Names], frozenset[str] | None]] = {
    ("gatera.adapter.updates", "DELTAS"): lambda names: names.delta,
    ("gatera.adapter.gates", "GATES"): lambda names: names.gate,
    ("gatera.backbones", "LLAMA_HUB_IDS"): lambda names: frozenset({names.backbone}),
    ("gatera.tasks.tiny", "FAMILIES"): lambda names: names.embedded_tasks,
    ("gatera.tasks.commonsense", "BENCHMARKS"): lambda names: names.real_tasks,
    ("gatera.tasks.hub", "SOURCES"): lambda names: names.real_tasks,
    ("gatera.tasks.prompts", "TEMPLATES"): lambda names: frozenset({names.template}),
}

_EMBEDDED_TASKS = ("gatera.tasks.tiny", "FAMILIES")  # the table that tells them from real ones


def training_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that training a trial loads: "gatera/training/losses.py" -> tree hash.

    Of the tasks, those that are trained on count. None for the frozen backbone, which nothing
    trains.

    Args:
        config: A resolved configuration: backbone, adapter, train, eval, data.
    """
    if config["adapter"]["method"] == "frozen":
        return {}
    return _files(config, _TRAINING_ROOTS, "train_tasks")


def scoring_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that scoring a trial loads, as `training_code` does.

    Of the tasks, those that are scored count.
    """
    return _files(config, _SCORING_ROOTS, "tasks")


def answering_code(config: Mapping[str, Any], task: str) -> dict[str, str]:
    """Return the files that answering the items of one task loads, as `training_code` does."""
    data = {**config["data"], "tasks": [task]}
    return _files({**config, "data": data}, _ANSWERING_ROOTS, "tasks")


def files_sha256(files: Mapping[str, str]) -> str:
    """Return one hash of what all files hold, in hex; where they lie counts for nothing."""
    return hashlib.sha256("\n".join(sorted(files.values())).encode()).hexdigest()


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the files that differ, that appeared and that went, sorted; none that only moved."""
    then, today = Counter(before.values()), Counter(now.values())
    went, came = then - today, today - then
    gone = {path for path, digest in before.items() if digest in went}
    return sorted(gone | {path for path, digest in now.items() if digest in came})


def read_sources() -> None:
    """Read the package's source, once: from now on, answers are about the code as it is now.

    For a process that loads the code and computes with it, whatever happens to the files since.
    """
    _package()


@functools.cache
def _package() -> Package:
    return Package(_PACKAGE)


def _files(config: Mapping[str, Any], roots: Sequence[str], field: str) -> dict[str, str]:
    package = _package()
    return package.files(roots, package.names(config, config["data"][field]))


@dataclass(frozen=True)
class _Part:
    """What counts of one module."""

    sha256: str
    imports: frozenset[str]  # names of modules, or of what is in one


class Package:
    """The source of a package, read when this is made; what was computed of it is kept."""

    def __init__(self, folder: Path) -> None:
        self._paths: dict[str, str] = {}  # module -> path, from the folder that holds the package
        self._sources: dict[str, bytes] = {}
        self._parts: dict[tuple[Any, ...], _Part] = {}
        self._found: dict[tuple[tuple[str, ...], Names], dict[str, str]] = {}
        for path in folder.rglob("*.py"):
            within = path.relative_to(folder.parent)
            name = ".".join(within.with_suffix("").parts).removesuffix(".__init__")
            self._paths[name] = within.as_posix()
            self._sources[name] = path.read_bytes()

    def names(self, config: Mapping[str, Any], tasks: Collection[str]) -> Names:
        """Return the names by which a configuration, with these tasks, chooses code."""
        adapter = config["adapter"]
        embedded = frozenset(tasks) & self.table_keys(*_EMBEDDED_TASKS)
        return Names(
            adapted=adapter["method"] != "frozen",
            delta=_chosen(adapter.get("delta")),
            gate=_chosen(adapter.get("gate")),
            backbone=config["backbone"]["name"],
            template=config["data"]["template"],
            embedded_tasks=embedded,
            real_tasks=frozenset(tasks) - embedded,
            knowledge=config.get("eval", {}).get("knowledge"),
        )

    def table_keys(self, module: str, variable: str) -> frozenset[str]:
        """Return the keys of a module's table.

        Raises:
            LookupError: the module has no such dict literal.
        """
        for statement in self._tree(module).body:
            if _table_name(statement) == variable:
                return frozenset(filter(None, map(_key, _table(statement).keys)))
        raise LookupError(
            f"{self._paths[module]} has no dict literal {variable}, from which a configuration is "
            "said to choose; correct the declarations in gatera/training/code.py."
        )

    def files(self, roots: Sequence[str], names: Names) -> dict[str, str]:
        """Return path -> tree hash of what counts, beginning with the modules `roots`."""
        key = (tuple(roots), names)
        if key not in self._found:
            with _uncollected():
                self._found[key] = self._follow(roots, names)
        return dict(self._found[key])

    def _follow(self, roots: Sequence[str], names: Names) -> dict[str, str]:
        hashes: dict[str, str] = {}
        waiting, seen = list(roots), set[str]()
        while waiting:
            module = waiting.pop()
            if module in seen or not _counts(module, names):
                continue
            seen.add(module)
            part = self._part(module, names)
            if part.sha256 != _NOTHING:
                hashes[self._paths[module]] = part.sha256
            waiting += [loaded for name in part.imports for loaded in self._loaded(name)]
        return dict(sorted(hashes.items()))

    def _part(self, module: str, names: Names) -> _Part:
        chosen = {name: choose(names) for (of, name), choose in _TABLES.items() if of == module}
        key = (module, *chosen.values())
        if key not in self._parts:
            tree = self._tree(module)
            for variable, keys in chosen.items():
                self.table_keys(module, variable)  # a table that is not there chooses nothing
                if keys is not None:
                    tree = _with_entries(tree, variable, keys)
            sha256 = node_sha256(tree) if chosen else _parsed_sha256(self._sources[module])
            self._parts[key] = _Part(sha256, frozenset(self._imports(module, tree)))
        return self._parts[key]

    def _tree(self, module: str) -> ast.Module:
        if module not in self._sources:
            raise LookupError(
                f"there is no module {module}; correct the declarations in gatera/training/code.py."
            )
        return _parsed(self._sources[module])

    def _imports(self, module: str, tree: ast.AST) -> Iterator[str]:
        """Yield the full names that a module's import statements name."""
        for statement in _import_statements(tree):
            if isinstance(statement, ast.Import):
                yield from (alias.name for alias in statement.names)
            else:
                origin = self._origin(module, statement)
                yield from (f"{origin}.{alias.name}" for alias in statement.names)

    def _origin(self, module: str, statement: ast.ImportFrom) -> str:
        """Return the full name of what stands after `from`."""
        if not statement.level:
            return statement.module or ""
        parents = f"{module}.__init__" if self._paths[module].endswith("/__init__.py") else module
        base = parents.split(".")[: -statement.level]
        return ".".join([*base, *filter(None, [statement.module])])

    def _loaded(self, name: str) -> Iterator[str]:
        """Yield the modules of this package that importing a full name loads."""
        parts = name.split(".")
        modules = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        yield from (module for module in modules if module in self._paths)
        origin, _, bound = name.rpartition(".")
        if name not in self._paths and origin in self._paths and _has_table(origin):
            yield from self._passed_on(origin, bound)

    def _passed_on(self, module: str, bound: str) -> Iterator[str]:
        """Yield the modules that a name comes from which a module imports itself."""
        for statement in self._tree(module).body:
            if isinstance(statement, ast.ImportFrom) and _bound(statement) == {bound}:
                yield from self._loaded(next(self._imports(module, statement)))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking syntax trees over and over while they are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _chosen(name: str | None) -> frozenset[str] | None:
    return None if name is None or ".py:" in name else frozenset({name})


def _has_table(module: str) -> bool:
    return any(module == of for of, _ in _TABLES)


def _counts(module: str, names: Names) -> bool:
    if module in _WITHOUT_SAY:
        return False
    return all(
        holds(names)
        for choice, holds in _MODULES.items()
        if module == choice or module.startswith(f"{choice}.")
    )


_NOTHING = tree_sha256("")


@functools.cache
def _parsed(source: bytes) -> ast.Module:
    """Return a module's tree: what counts of it, and one import statement for each name."""
    statements = kept_statements(ast.parse(source).body)
    return ast.Module([single for statement in statements for single in _single(statement)], [])


@functools.cache
def _parsed_sha256(source: bytes) -> str:
    return node_sha256(_parsed(source))


def _single(statement: ast.stmt) -> list[ast.stmt]:
    """Return an import statement as one for each name; any other as it is."""
    if not isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [statement]
    singles: list[ast.stmt] = []
    for alias in statement.names:
        single = copy.copy(statement)
        single.names = [alias]
        singles.append(single)
    return singles


def _import_statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
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
                yield from _import_statements(child)


def _table_name(statement: ast.stmt) -> str | None:
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


def _table(statement: ast.stmt) -> ast.Dict:
    assert isinstance(statement, (ast.Assign, ast.AnnAssign))
    assert isinstance(statement.value, ast.Dict)
    return statement.value


def _key(key: ast.expr | None) -> str | None:
    """Return the text that a key is; None for one that is computed."""
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _with_entries(tree: ast.Module, variable: str, keys: Collection[str]) -> ast.Module:
    """Return a module whose table has the entries of `keys` alone, and computed ones.

    Without what only the other entries read: imports, and private definitions.
    """
    body: list[ast.stmt] = []
    unread: set[str] = set()
    for statement in tree.body:
        if _table_name(statement) == variable:
            table = _table(statement)
            entries = list(zip(table.keys, table.values, strict=True))
            kept = [(k, v) for k, v in entries if _key(k) is None or _key(k) in keys]
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
            bound = _bound(statement)
            others = reads[:place] + reads[place + 1 :]
            if bound and bound <= names and not any(bound & read for _, read in others):
                names |= reads[place][1]
                reads = others
                break
        else:
            return [statement for statement, _ in reads]


def _bound(statement: ast.stmt) -> set[str]:
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
