"""Finding study files: in ./studies, among those shipped, or at a path that the user names."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from gatera.errors import InputError
from gatera.studies.study import Study, check_name

_SHIPPED = Path(__file__).parent / "shipped"  # where the wheel puts the repository's studies
_CHECKOUT = Path(__file__).parents[2] / "studies"


@dataclass(frozen=True)
class Entry:
    """What `list` says of a study file, read without executing it."""

    name: str
    title: str
    reproduces: str
    path: Path


@dataclass(frozen=True)
class LoadedStudy:
    """A study with the file that it came from."""

    name: str
    study: Study
    path: Path
    sha256: str  # of the file's bytes


def entries() -> list[Entry]:
    """Return the studies that a name can mean, ordered by name; ./studies comes first."""
    found: dict[str, Entry] = {}
    for folder in _folders():
        for path in sorted(folder.glob("[a-z]*.py")):
            if path.stem not in found and (entry := _read_entry(path)) is not None:
                found[path.stem] = entry
    return [found[name] for name in sorted(found)]


def load(name_or_path: str) -> LoadedStudy:
    """Load a study by name, or from a user's own file.

    Raises:
        InputError: unknown name (with suggestions), a missing file, a file that does not parse or
            run (with file and line), or one without `STUDY = Study(...)`.
    """
    path = _locate(name_or_path)
    check_name("study", path.stem)
    source = path.read_bytes()
    study = _execute(path, source)
    return LoadedStudy(path.stem, study, path, hashlib.sha256(source).hexdigest())


def _folders() -> list[Path]:
    """Return the folders that hold studies; a checkout's own stand in for the wheel's."""
    return [Path("studies"), _SHIPPED if _SHIPPED.is_dir() else _CHECKOUT]


def _locate(name_or_path: str) -> Path:
    if name_or_path.endswith(".py") or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(f"no study file {name_or_path}; check the path.")
        return path
    known = {entry.name: entry.path for entry in entries()}
    if name_or_path in known:
        return known[name_or_path]
    # A study that does not parse is not listed; naming it must show its error, not hide it.
    for folder in _folders():
        if (path := folder / f"{name_or_path}.py").is_file():
            return path
    near = difflib.get_close_matches(name_or_path, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"no study {name_or_path!r}; {hint}Known: {', '.join(sorted(known))}. "
        "A study of your own is named by its path, such as my/study.py."
    )


def _read_entry(path: Path) -> Entry | None:
    """Return the title of the study in `path`, or None where no STUDY is stated."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None
    call = next((call for node in tree.body if (call := _study_call(node)) is not None), None)
    if call is None:
        return None
    words = {
        keyword.arg: keyword.value.value
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    }
    docstring = (ast.get_docstring(tree) or "").partition("\n")[0]
    return Entry(path.stem, words.get("title", docstring), words.get("reproduces", ""), path)


def _study_call(node: ast.stmt) -> ast.Call | None:
    """Return the call in `STUDY = Study(...)`, None for any other statement."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    value = getattr(node, "value", None)
    named = any(isinstance(target, ast.Name) and target.id == "STUDY" for target in targets)
    return value if named and isinstance(value, ast.Call) else None


def _execute(path: Path, source: bytes) -> Study:
    try:
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise InputError(
            f"{path}, line {line}: {getattr(error, 'msg', error)}; the study file is not valid "
            "Python."
        ) from error
    spec = importlib.util.spec_from_loader(f"gatera_study_{path.stem}", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        exec(code, module.__dict__)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{path}, line {_line_of(error, path)}: {type(error).__name__}: {error}"
        ) from error
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise InputError(
            f"{path} states no study; write STUDY = Study(...) with Study from gatera.studies."
        )
    return study


def _line_of(error: BaseException, path: Path) -> int:
    """Return the line of `path` at which `error` was raised."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
