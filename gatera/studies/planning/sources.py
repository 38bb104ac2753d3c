"""Files that a configuration names: a user's own gate or update, a text for knowledge kept.

In the configuration, and so in the key, stands the file's name without its folder, and its hash
among the identities: a study that moves keeps its results. Where the file lies stands beside.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gatera.errors import InputError
from gatera.tasks.benchmarks import files
from gatera.trial import Json

OWN_CLASSES = ("adapter.gate", "adapter.delta")  # settings that also name a class by its file
KNOWLEDGE = ("eval.knowledge", "train.knowledge")  # settings that name a text

_CLASS_PATH = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_WIKITEXT_FILES = ("test.txt", "wiki.test.raw", "wiki.test.tokens")

NO_KNOWLEDGE_TEXT = (
    "how much pre-trained knowledge is kept was not measured: there is no held-out text; put "
    "wikitext/test.txt under the data root, or pass --set eval.knowledge=FILE"
)


@dataclass(frozen=True)
class Located:
    """A configuration whose files were found."""

    config: dict[str, Json]
    paths: dict[str, str] = field(default_factory=dict)  # "section.field" -> absolute path
    hashes: dict[str, str] = field(default_factory=dict)  # "section.field" -> SHA-256


def is_class_path(value: Json) -> bool:
    """Return whether a value reads path/to/file.py:ClassName."""
    return isinstance(value, str) and _CLASS_PATH.fullmatch(value) is not None


def without_folder(name: str, value: Json) -> Json:
    """Return a setting's value without the folder of the file that it names."""
    if name in OWN_CLASSES and is_class_path(value):
        return value.rpartition("/")[2]
    if name in KNOWLEDGE and isinstance(value, str):
        return Path(value).name
    return value


def locate(
    config: Mapping[str, Json], folders: Sequence[Path], data_root: Path | None, *, strict: bool
) -> Located:
    """Return a resolved configuration with the files that it names found and hashed.

    Args:
        config: Its sections.
        folders: Where relative paths are looked for, first match first.
        data_root: Root of the real data sets.
        strict: Whether a file that is missing is an error; else it has no hash.

    Raises:
        InputError: a file is missing, or does not define the class that is named.
    """
    located = Located({section: _copy(fields) for section, fields in config.items()})
    for name in OWN_CLASSES:
        stated = (located.config.get("adapter") or {}).get(name.partition(".")[2])
        if is_class_path(stated):
            _locate_class(located, name, str(stated), folders)
    for name in KNOWLEDGE:
        _locate_knowledge(located, name, folders, data_root, strict)
    return located


def _copy(fields: Json) -> Json:
    return dict(fields) if isinstance(fields, Mapping) else fields


def _locate_class(located: Located, name: str, stated: str, folders: Sequence[Path]) -> None:
    match = _CLASS_PATH.fullmatch(stated)
    assert match is not None
    path = _find(name, match["file"], folders)
    _check_defines(name, path, match["name"])
    located.config["adapter"][name.partition(".")[2]] = f"{path.name}:{match['name']}"
    _note(located, name, path)


def _check_defines(setting: str, path: Path, name: str) -> None:
    """Refuse a file without the class; it is read, not run."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise InputError(f"{path}, line {line}: {error}; {setting} needs valid Python.") from error
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if name not in classes:
        raise InputError(
            f"{setting}: {path} defines no class {name}; it defines {', '.join(classes) or 'none'}."
        )


def _locate_knowledge(
    located: Located, name: str, folders: Sequence[Path], data_root: Path | None, strict: bool
) -> None:
    section = located.config[name.partition(".")[0]]
    stated = section.get("knowledge")
    if stated == "auto":
        embedded = located.config["backbone"]["name"] == "tiny"
        path = None if embedded else _wikitext(data_root, strict)
        section["knowledge"] = "world" if embedded else ("wikitext" if path else None)
    elif stated == "wikitext":
        path = _wikitext(data_root, strict)
        if path is None and strict:
            raise InputError(
                f"{name}=wikitext: no wikitext/{_WIKITEXT_FILES[0]} under the data root; put "
                "it there (--data-root), or name a text file."
            )
    elif stated in (None, "world"):
        return
    else:
        path = _find(name, stated, folders)
        section["knowledge"] = path.name
    if path is not None:
        _note(located, name, path)


def _wikitext(data_root: Path | None, strict: bool) -> Path | None:
    try:
        root = files.data_root(data_root)
    except InputError:
        if strict:
            raise
        return None
    candidates = [root / "wikitext" / name for name in _WIKITEXT_FILES] if root else []
    return next((path for path in candidates if path.is_file()), None)


def _find(name: str, stated: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if (path := folder / stated).is_file():
            return path.absolute()
    looked = " and ".join(str(folder) for folder in dict.fromkeys(folders))
    raise InputError(f"{name}: no file {stated} in {looked}; check the path.")


def _note(located: Located, name: str, path: Path) -> None:
    located.paths[name] = str(path.absolute())
    located.hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
