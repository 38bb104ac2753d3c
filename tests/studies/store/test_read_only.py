"""A store that may only be read: looked at as ever, refused in one message by what writes."""

import contextlib
import errno
import os
import sys

import pytest
from made_up import commit_result

from gatera import cli
from gatera.studies.catalog import load
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.store import Store

_CHANGES = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_read_only = {}  # folder -> what the kernel says of it


def _as_the_kernel(event, arguments):
    """Refuse writing as a read-only file system does: permissions do not bind root."""
    if not _read_only or not (event in _CHANGES or event == "open"):
        return
    if event == "open" and not arguments[2] & _WRITES:
        return
    for path in arguments[:2]:
        for folder, number in _read_only.items():
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
                raise OSError(number, os.strerror(number), path)


sys.addaudithook(_as_the_kernel)  # which can be silenced, not removed


@contextlib.contextmanager
def read_only(folder, number=errno.EROFS):
    _read_only[str(folder)] = number
    try:
        yield
    finally:
        _read_only.clear()


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder with a store of a shipped study: one trial is done, the rest waits."""
    folder = tmp_path_factory.mktemp("studied")
    plan = make_plan(load("ablation_table5"), Request())
    store = Store(folder / "gatera-store", create=True)
    store.write_plan(plan)
    commit_result(store, plan.trials[0], 0.5)
    (store.folder / "supervisor.lock").touch()
    return folder


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["run", "ablation_table5"], "supervisor.lock"),
        (["sync", "gatera-store"], "supervisor.lock"),
        (["work", "gatera-store"], "trials/"),
    ],
)
def test_what_writes_says_that_the_store_cannot_be_written(
    studied, monkeypatch, capsys, command, path, number
):
    monkeypatch.chdir(studied)
    store = studied / "gatera-store"
    with read_only(store, number):
        assert cli.main(command) == 2
    out, said = capsys.readouterr()
    line = said.splitlines()[-1]
    assert out == ""
    assert "Traceback" not in said
    assert line.startswith(f"gatera: {store / path}")
    assert f" cannot be used ({os.strerror(number)}); allow it, or name another folder" in line


def test_a_store_that_may_only_be_read_can_be_looked_at(studied, monkeypatch, capsys):
    monkeypatch.chdir(studied)
    with read_only(studied / "gatera-store"):
        assert cli.main(["status", "ablation_table5"]) == 0
        assert "1 of 21 trials done" in capsys.readouterr().out
        assert cli.main(["report", "ablation_table5"]) == 0
        assert "| frozen | 1 | 50.00" in capsys.readouterr().out
    assert (studied / "reports" / "ablation_table5.tiny.md").is_file()


def test_a_folder_for_reports_that_is_a_file_is_one_message(studied, monkeypatch, capsys):
    monkeypatch.chdir(studied)
    (studied / "a_file").touch()
    for name in ("a_file", "a_file/within"):
        assert cli.main(["report", "ablation_table5", "--report-dir", name]) == 2
        assert capsys.readouterr().err.startswith(f"gatera: {name} cannot be used (")


@pytest.mark.parametrize("command", ["plan", "run", "status", "report"])
def test_a_file_given_as_the_store_is_one_message(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    assert cli.main([command, "ablation_table5", "--store", "a_file"]) == 2
    assert capsys.readouterr() == ("", "gatera: a_file is a file; name a folder with --store.\n")
