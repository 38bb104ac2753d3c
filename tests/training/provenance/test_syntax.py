"""Hashing what source code says, and not how."""

from __future__ import annotations

import ast
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatera.training.provenance import syntax
from gatera.training.provenance.syntax import node_sha256, tree_sha256

SAMPLE = Path(__file__).with_name("every_syntax.txt")
GOLDEN = "f6496cacc98ea78bf82f8c776111b46f9d5de2ccff6c5ae82bd19349d41bcff2"

CODE = '''
"""A module."""

import b, a
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from c import C


class Thing:
    """A thing."""

    size: int = 3
    """How large."""

    def scaled(self, by):
        """Return the size, scaled."""
        from d import offset

        return offset(self.size * by, 0.5)  # in metres
'''

SAME = {
    "no docstrings": lambda code: (
        code.replace('"""A thing."""', "")
        .replace('"""Return the size, scaled."""', "")
        .replace('"""How large."""', "")
        .replace('"""A module."""', "")
    ),
    "another docstring": lambda code: code.replace("A thing", "One of them"),
    "another comment": lambda code: code.replace("in metres", "in feet"),
    "blank lines": lambda code: code.replace("\n", "\n\n"),
    "other imports": lambda code: code.replace("import b, a", "import a\nfrom x import b"),
    "another import in a function": lambda code: code.replace("from d import", "from e import"),
    "more under TYPE_CHECKING": lambda code: code.replace("import C", "import C\n    D = C"),
    "exports": lambda code: code + "\n__all__ = ['Thing']\n",
    "parentheses": lambda code: code.replace("self.size * by", "(self.size * by)"),
}

OTHER = {
    "another name": lambda code: code.replace("by)", "of)"),
    "another constant": lambda code: code.replace("3", "4"),
    "another type of constant": lambda code: code.replace("3", "3.0"),
    "another operator": lambda code: code.replace("*", "+"),
    "swapped arguments": lambda code: code.replace("self.size * by, 0.5", "0.5, self.size * by"),
    "swapped operands": lambda code: code.replace("self.size * by", "by * self.size"),
    "another attribute": lambda code: code.replace("self.size", "self.width"),
    "one statement more": lambda code: code + "\nThing()\n",
    "a default": lambda code: code.replace("by):", "by=1):"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_how_code_is_written_does_not_change_the_hash(change) -> None:
    assert change(CODE) != CODE
    assert tree_sha256(change(CODE)) == tree_sha256(CODE)


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER.keys())
def test_what_code_says_changes_the_hash(change) -> None:
    assert change(CODE) != CODE
    assert tree_sha256(change(CODE)) != tree_sha256(CODE)


def test_quotes_and_encodings_of_a_source_do_not_matter() -> None:
    source = "x = 'é'  # é\n"
    latin = f"# -*- coding: latin-1 -*-\n{source}".encode("latin-1")
    assert tree_sha256(source) == tree_sha256(latin) == tree_sha256('x = "é"')
    assert tree_sha256(source) == tree_sha256("\ufeff".encode() + source.encode())


CONSTANTS = (
    *("1", "1.0", "True", "'1'", "b'1'", "1j", "1.0j", "...", "None", "False", "0", "0.0", "''"),
    *("b''", "()", "'None'", "'Ellipsis'", "'int:1'", "2", "16", "0.1", "1e400", "'str1:a'", "[]"),
)


def test_constants_of_other_types_and_values_differ() -> None:
    hashes = {source: tree_sha256(f"x = {source}") for source in CONSTANTS}
    same = {("1j", "1.0j")}
    for one, its in hashes.items():
        for other, others in hashes.items():
            assert (its == others) == (one == other or (one, other) in same or (other, one) in same)


def test_constants_that_no_source_spells_differ_too() -> None:
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1, complex(0.0, -0.0), 0j, "\ud800"]
    values += [(1, "2"), (1, 2), ((1,), 2), (), frozenset({1, 2}), frozenset({"1"})]
    hashes = {node_sha256(ast.Constant(value)) for value in values}
    assert len(hashes) == len(values)
    assert node_sha256(ast.Constant(frozenset("abc"))) == node_sha256(
        ast.Constant(frozenset("cba"))
    )
    with pytest.raises(TypeError, match="hash a tree that"):
        node_sha256(ast.Constant(object()))


def test_neighbouring_texts_do_not_run_into_each_other() -> None:
    assert tree_sha256("x = ['a', 'b']") != tree_sha256("x = ['a,', 'b']")
    assert tree_sha256("f('a) ', b)") != tree_sha256("f('a', b)")
    assert tree_sha256("{None: 1}") != tree_sha256("{**1}")
    assert tree_sha256("match x:\n case None: y") != tree_sha256("match x:\n case True: y")
    long = "a" * 100_000
    assert tree_sha256(f"x = '{long}'") != tree_sha256(f"x = '{long}a'")


def test_a_body_without_anything_left_is_that_of_pass() -> None:
    emptied = [
        "def f():\n  'doc'",
        "def f():\n  pass",
        "def f():\n  import a",
        "def f():\n  'doc'\n  from a import b\n  pass",
        "def f():\n  if TYPE_CHECKING:\n    import a",
    ]
    assert len({tree_sha256(source) for source in emptied}) == 1
    others = [
        "def f():\n  ...",
        "def f():\n  return",
        "def f():\n  return None",
        "def f():\n  b'bytes'",
        "def f():\n  f'{a}'",
        "async def f():\n  pass",
        "class f:\n  pass",
        "def f(a):\n  pass",
        "",
    ]
    assert len({tree_sha256(source) for source in [emptied[0], *others]}) == len(others) + 1


def test_what_runs_instead_of_a_type_checking_block_counts() -> None:
    plain = tree_sha256("x = 1")
    assert tree_sha256("if TYPE_CHECKING:\n  import a\nelse:\n  x = 1") == plain
    assert tree_sha256("if typing.TYPE_CHECKING:\n  x = 2\nelse:\n  x = 1") == plain
    assert tree_sha256("if not TYPE_CHECKING:\n  x = 1") != plain


# Trees as other Pythons than this one make them.


def function(**fields) -> ast.Module:
    made = ast.FunctionDef(
        name="f",
        args=ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[]),
        body=[ast.Return(ast.Name("a", ast.Load()))],
        decorator_list=[],
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return ast.Module([made], [])


def test_a_field_that_a_python_does_not_know_or_leaves_empty_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = tree_sha256("def f(): return a")
    with_fields = {*ast.FunctionDef._fields, "type_params"}
    without = [name for name in ast.FunctionDef._fields if name != "type_params"]
    for fields in (sorted(with_fields), sorted(with_fields, reverse=True), without):
        monkeypatch.setattr(ast.FunctionDef, "_fields", tuple(fields))
        syntax._fields.cache_clear()
        assert node_sha256(function()) == expected
        assert node_sha256(function(type_params=[], type_comment="int")) == expected
        assert node_sha256(function(type_params=None)) == expected
        with_one = node_sha256(function(type_params=[ast.Name("T", ast.Load())]))
        assert (with_one == expected) == (fields == without)
    monkeypatch.undo()
    syntax._fields.cache_clear()


def joined(*values, spec=None) -> str:
    parts = [
        ast.Constant(value)
        if isinstance(value, str)
        else ast.FormattedValue(ast.Name("a", ast.Load()), -1, spec)
        for value in values
    ]
    return node_sha256(ast.Module([ast.Expr(ast.JoinedStr(parts))], []))


def test_an_f_string_may_be_cut_in_any_way() -> None:
    expected = tree_sha256('f"one two {a} three"')
    assert joined("one two ", ..., " three") == expected
    assert joined("one ", "two ", ..., " three") == expected
    assert joined("", "one ", "", "two ", "", ..., "", " three", "") == expected
    assert joined("one two ", ..., "", " three", spec=ast.JoinedStr([])) == expected
    assert joined("one two ", ..., "", " three", spec=ast.JoinedStr([ast.Constant("")])) == expected
    assert joined("one two ", " three", ...) != expected
    assert joined("one two ", ..., " three", spec=ast.JoinedStr([ast.Constant(">")])) != expected
    assert joined(..., ...) == tree_sha256('f"{a}{a}"')


def test_the_kind_of_a_string_and_the_place_of_a_node_do_not_matter() -> None:
    made = ast.Module([ast.Assign([ast.Name("x")], ast.Constant("a", kind="u"))], [])
    assert node_sha256(made) == tree_sha256("x = 'a'") == tree_sha256("\n\n   \nx = u'a'")


# One value on every Python.


def test_the_sample_holds_all_of_the_syntax() -> None:
    abstract = {"AST", "mod", "stmt", "expr", "expr_context", "boolop", "operator", "unaryop"}
    abstract |= {"cmpop", "excepthandler", "pattern", "type_ignore", "slice", "type_param"}
    old = {"Num", "Str", "Bytes", "NameConstant", "Ellipsis", "Index", "ExtSlice", "Suite"}
    old |= {"AugLoad", "AugStore", "Param"}
    elsewhere = {"Interactive", "Expression", "FunctionType", "TypeIgnore"}
    later = {"TypeAlias", "TypeVar", "ParamSpec", "TypeVarTuple", "TemplateStr", "Interpolation"}
    known = {
        name
        for name, kind in vars(ast).items()
        if isinstance(kind, type) and issubclass(kind, ast.AST) and not name.startswith("_")
    }
    found = {type(node).__name__ for node in ast.walk(ast.parse(SAMPLE.read_text("utf-8")))}
    assert known - abstract - old - elsewhere - later == found


def test_the_sample_has_its_hash_here() -> None:
    assert tree_sha256(SAMPLE.read_bytes()) == GOLDEN


def interpreter(version: str) -> str:
    """Return a Python of this version that runs, or skip."""
    asked = ["-c", "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = [str(path) for path in versions.glob(f"{version}.*/bin/python")]
    for candidate in (shutil.which(f"python{version}"), sys.executable, *kept):
        if candidate is not None:
            done = subprocess.run([candidate, *asked], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.split()[-1] == version:
                return candidate
    pytest.skip(f"there is no Python {version} on this machine")


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_sample_has_the_same_hash_on_every_python(version: str) -> None:
    program = (
        "import runpy, sys, pathlib; module = runpy.run_path(sys.argv[1]);"
        "print(module['tree_sha256'](pathlib.Path(sys.argv[2]).read_bytes()))"
    )
    command = [interpreter(version), "-I", "-c", program, syntax.__file__, str(SAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN
