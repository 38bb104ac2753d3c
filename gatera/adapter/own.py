"""Gates and updates of a user's own, named by file and class: "path/to/file.py:ClassName".

Their code runs only where someone asked for it by name. Loading a checkpoint never runs
any: its configuration may name a file, and is refused until that file was loaded by hand.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from gatera.adapter.gates.base import Gate
from gatera.adapter.updates.base import Delta
from gatera.errors import InputError

Kind = TypeVar("Kind")

_loaded: dict[str, type] = {}
_sources: dict[str, str] = {}  # the sha256, in hex, of what was run for each


def is_path(name: str) -> bool:
    """Whether a gate or an update is named by file and class."""
    return ".py:" in name


def load_own_gate(name: str) -> type[Gate]:
    """Run the file of "path/to/file.py:ClassName"; configurations may name that gate then.

    Raises:
        InputError: there is no such file or class, or the class does not derive from `Gate`.
    """
    return _load(name, Gate)


def load_own_delta(name: str) -> type[Delta]:
    """Run the file of "path/to/file.py:ClassName"; configurations may name that update then.

    Raises:
        InputError: there is no such file or class, or the class does not derive from `Delta`.
    """
    return _load(name, Delta)


def _file_of(name: str) -> Path:
    return Path(name.rpartition(":")[0]).absolute()


def _load(name: str, base: type[Kind]) -> type[Kind]:
    path, class_name = _file_of(name), name.rpartition(":")[2]
    if not path.is_file():
        raise InputError(
            f"{name!r} names the file {path}, which does not exist; give path/to/file.py:ClassName."
        )
    module_name = f"gatera_own_{path.stem}"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # where dataclasses and pickle look classes up
    spec.loader.exec_module(module)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(
            f"{path} has no class {class_name!r} that derives from gatera's {base.__name__}; "
            f"write class {class_name}({base.__name__}) in it, or correct the name."
        )
    _loaded[name], _sources[name] = found, sha256
    return found


def sources_of(names: Iterable[str], saved: Mapping[str, str]) -> dict[str, str]:
    """Return the hash of the source of each name that stands for code of a user's own.

    Args:
        names: Of gates and updates, all of them known.
        saved: The hashes that an adapter was saved with; without one, nothing is compared.

    Raises:
        InputError: the code that was loaded is not the one that the adapter was saved with.
    """
    sources = {name: _sources[name] for name in names if name in _sources}
    for name, sha256 in sources.items():
        if saved.get(name, sha256) != sha256:
            raise InputError(
                f"{name!r} is not the code that this adapter was saved with: {_file_of(name)} has "
                f"the sha256 {sha256[:12]}…, and had {saved[name][:12]}…. Bring that version of "
                "the file back and load it again; or, if the change does no harm, take the entry "
                "out of 'sources' in adapter_config.json."
            )
    return sources


def look_up(field: str, name: str, known: Mapping[str, Kind]) -> Kind:
    """Return what `name` stands for, among those that ship and those that were loaded.

    Raises:
        InputError: it is unknown, or its code was not loaded.
    """
    if name in known:
        return known[name]
    if name in _loaded:
        own: Kind = _loaded[name]  # type: ignore[assignment]
        return own
    if is_path(name):
        raise InputError(
            f"{field}={name!r} is code of the adapter's author, which is never run by loading a "
            f"configuration. If you trust it, call gatera.adapter.load_own_{field}({name!r}) first."
        )
    raise InputError(
        f"{field}={name!r} is not known; choose one of: {', '.join(sorted(known))}, or your own "
        "as path/to/file.py:ClassName."
    )
