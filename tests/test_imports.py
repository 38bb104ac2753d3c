"""The house: which module imports which, how large rooms and files are."""

import ast
import collections
from pathlib import Path

import pytest

import gatera

PACKAGE = Path(gatera.__file__).parent
MOST_MODULES, MOST_LINES = 12, 400


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


SHIPPED = PACKAGE / "studies" / "shipped"  # where a wheel has the studies
MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py") if path.parent != SHIPPED}
FOLDERS = sorted({path.parent for path in MODULES.values()})


def imported_by(module):
    """Return the modules of gatera that a module imports: anywhere in it, for types too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys() - {module}


def cycle_in(graph):
    """Return modules that import each other in a circle; none where there is no circle."""
    left = {module: set(imports) for module, imports in graph.items()}
    while leaves := [module for module, imports in left.items() if not imports]:
        for leaf in leaves:
            del left[leaf]
        for imports in left.values():
            imports.difference_update(leaves)
    if not left:
        return []
    walked = collections.OrderedDict()
    module = min(left)
    while module not in walked:
        walked[module] = None
        module = min(left[module])
    names = list(walked)
    return names[names.index(module) :]


def test_no_modules_import_each_other_in_a_circle():
    assert cycle_in({module: imported_by(module) for module in MODULES}) == []


def test_a_circle_would_be_found():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"d"}, "d": {"b"}, "e": set()}
    assert set(cycle_in(graph)) in ({"b", "c", "d"}, {"b", "d"})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.relative_to(PACKAGE.parent).as_posix())
def test_a_room_is_small_and_says_what_it_holds(folder):
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or ""
    assert len(said.split()) > 15
    assert said.count("\n\n") <= 2


def test_files_are_short():
    lines = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in MODULES.items()}
    assert [module for module, count in lines.items() if count > MOST_LINES] == []
