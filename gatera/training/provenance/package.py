"""The source of this package: which modules a configuration loads, and the hash of each.

Found by following import statements, those in functions too. What a configuration chooses by a name
counts only where it is chosen: `_MODULES` and `_TABLES` say where that is so. Imports nothing of
what it reads.

Two things it cannot see: an import statement that gives another thing the same name, since import
lines are left out of the hashes, and an import by `importlib`.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatera.collecting import uncollected
from gatera.training.provenance.syntax import kept_statements, node_sha256, tree_sha256
from gatera.training.provenance.trees import (
    bound_names,
    import_statements,
    key_text,
    table_literal,
    table_name,
    with_entries,
)

# Modules that no number in a result depends on; neither they nor what they import counts.
_WITHOUT_SAY = (
    "gatera",  # looks names up when they are touched
    "gatera.settings",  # what they say stands in the configuration
    "gatera.declaring",
    "gatera.trial",  # what it hands to training and scoring stands in the keys
    "gatera.collecting",  # when memory is freed
    "gatera.cache_folder",  # where what can be made again lies
    "gatera.errors",  # classes of exceptions, which no result comes from
    "gatera.training.attempt_files",  # names of files
    "gatera.training.metrics_log",  # what others follow a trial by
    "gatera.training.fitting",  # loads training and scoring, and calls them
    "gatera.training",  # hands its arguments on to a root
    "gatera.training.provenance.code",  # describe the code, and so on
    "gatera.training.provenance.package",
    "gatera.training.provenance.trees",
    "gatera.training.provenance.syntax",
    "gatera.training.provenance.machine",
    "gatera.training.provenance.gpus",
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
    tasks: frozenset[str]
    task_families: frozenset[str]  # that know one of them
    knowledge: str | None


# Modules that count, with all that is under them, only where this holds.
_MODULES: Mapping[str, Callable[[Names], bool]] = {
    "gatera.adapter": lambda names: names.adapted,
    "gatera.backbones.tiny": lambda names: names.backbone == "tiny",
    "gatera.backbones.smollm2": lambda names: names.backbone == "smollm2",
    "gatera.backbones.hub": lambda names: names.backbone not in ("tiny", "smollm2"),
    "gatera.tasks.held_out": lambda names: names.knowledge == "world",
    "gatera.training.evaluation.knowledge": lambda names: names.knowledge is not None,
}


# (module, its table) -> the keys whose entries count; None: all. What only other entries read, an
# import or a private definition, does not count either.
_TABLES: Mapping[tuple[str, str], Callable[[Names], frozenset[str] | None]] = {
    ("gatera.adapter.updates", "DELTAS"): lambda names: names.delta,
    ("gatera.adapter.gates", "GATES"): lambda names: names.gate,
    ("gatera.backbones", "LLAMA_HUB_IDS"): lambda names: frozenset({names.backbone}),
    ("gatera.tasks", "FAMILIES"): lambda names: names.task_families,
    ("gatera.tasks.benchmarks.commonsense", "BENCHMARKS"): lambda names: names.tasks,
    ("gatera.tasks.prompts", "TEMPLATES"): lambda names: frozenset({names.template}),
}


# Families of tasks -> the table whose keys name them.
_TASK_TABLES: Mapping[str, tuple[str, str]] = {
    # Not the table of what can be scored: one of them is trained on alone.
    "commonsense": ("gatera.tasks.benchmarks.commonsense_hub", "SOURCES"),
    "mathematics": ("gatera.tasks.benchmarks.mathematics", "BENCHMARKS"),
    "multilingual": ("gatera.tasks.benchmarks.multilingual", "BENCHMARKS"),
    "dialogue": ("gatera.tasks.benchmarks.dialogue", "BENCHMARKS"),
    "world_families": ("gatera.tasks.world_families", "FAMILIES"),
}


_TABLES_OF: dict[str, dict[str, Callable[[Names], frozenset[str] | None]]] = {}
for (_module, _variable), _choose in _TABLES.items():
    _TABLES_OF.setdefault(_module, {})[_variable] = _choose
for _module, _variable in _TASK_TABLES.values():
    _TABLES_OF[_module] = {_variable: lambda names: names.tasks}


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
        # (configuration, which stays alive so that no other has its identity; its files)
        self._of: dict[tuple[int, tuple[str, ...], str], tuple[Any, dict[str, str]]] = {}
        self._keys: dict[tuple[str, str], frozenset[str]] = {}  # of tables, by module and name
        for path in folder.rglob("*.py"):
            within = path.relative_to(folder.parent)
            name = ".".join(within.with_suffix("").parts).removesuffix(".__init__")
            self._paths[name] = within.as_posix()
            self._sources[name] = path.read_bytes()

    def names(
        self, config: Mapping[str, Any], tasks: Collection[str], knowledge: str | None
    ) -> Names:
        """Return the names by which a configuration, with these tasks and text, chooses code."""
        adapter = config["adapter"]
        chosen = frozenset(tasks)
        return Names(
            adapted=adapter["method"] != "frozen",
            delta=_chosen(adapter.get("delta")),
            gate=_chosen(adapter.get("gate")),
            backbone=config["backbone"]["name"],
            template=config["data"]["template"],
            tasks=chosen,
            task_families=self._task_families(chosen),
            knowledge=knowledge,
        )

    def _task_families(self, chosen: frozenset[str]) -> frozenset[str]:
        tables = _TASK_TABLES.items()
        return frozenset(family for family, table in tables if chosen & self.table_keys(*table))

    def table_keys(self, module: str, variable: str) -> frozenset[str]:
        """Return the keys of a module's table.

        Raises:
            LookupError: the module has no such dict literal.
        """
        if (module, variable) not in self._keys:
            self._keys[module, variable] = self._read_keys(module, variable)
        return self._keys[module, variable]

    def _read_keys(self, module: str, variable: str) -> frozenset[str]:
        for statement in self._tree(module).body:
            if table_name(statement) == variable:
                return frozenset(filter(None, map(key_text, table_literal(statement).keys)))
        raise LookupError(
            f"{self._paths[module]} has no dict literal {variable}, from which a configuration is "
            "said to choose; correct what names it in gatera/training/provenance."
        )

    def files_of(
        self, config: Mapping[str, Any], roots: tuple[str, ...], field: str
    ) -> dict[str, str]:
        """Return what `files` does for a configuration and its tasks of `field`.

        Kept by the configuration's identity: thousands of trials share one.
        """
        key = (id(config), roots, field)
        known = self._of.get(key)
        if known is None or known[0] is not config:
            section = config.get("train" if field == "train_tasks" else "eval", {})
            names = self.names(config, config["data"][field], section.get("knowledge"))
            known = self._of[key] = (config, self.files(roots, names))
        return known[1]

    def files(self, roots: Sequence[str], names: Names) -> dict[str, str]:
        """Return path -> tree hash of what counts, beginning with the modules `roots`."""
        key = (tuple(roots), names)
        if key not in self._found:
            with uncollected():
                self._found[key] = self._follow(roots, names)
        return dict(self._found[key])

    def prepare(self) -> None:
        """Hash the modules from which no configuration chooses: what is the same for all trials."""
        everything = Names(True, None, None, "", "", frozenset(), frozenset(), None)
        with uncollected():
            for module in self._sources:
                if module not in _WITHOUT_SAY and not _has_table(module):
                    self._part(module, everything)

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
        chosen = {name: choose(names) for name, choose in _TABLES_OF.get(module, {}).items()}
        key = (module, *chosen.values())
        if key not in self._parts:
            tree = self._tree(module)
            for variable, keys in chosen.items():
                self.table_keys(module, variable)  # a table that is not there chooses nothing
                if keys is not None:
                    tree = with_entries(tree, variable, keys)
            sha256 = node_sha256(tree) if chosen else _parsed_sha256(self._sources[module])
            self._parts[key] = _Part(sha256, frozenset(self._imports(module, tree)))
        return self._parts[key]

    def _tree(self, module: str) -> ast.Module:
        if module not in self._sources:
            raise LookupError(
                f"there is no module {module}; correct what names it in gatera/training/provenance."
            )
        return _parsed(self._sources[module])

    def _imports(self, module: str, tree: ast.AST) -> Iterator[str]:
        """Yield the full names that a module's import statements name."""
        for statement in import_statements(tree):
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
            if isinstance(statement, ast.ImportFrom) and bound_names(statement) == {bound}:
                yield from self._loaded(next(self._imports(module, statement)))


def _chosen(name: str | None) -> frozenset[str] | None:
    return None if name is None or ".py:" in name else frozenset({name})


def _has_table(module: str) -> bool:
    return module in _TABLES_OF


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
