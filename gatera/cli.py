"""The command line: parses, calls one function, prints.

Tables and JSON go to stdout, progress to stderr. Exit status: 0 all done, 2 what was given cannot
be used, 3 some trials failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gatera import commands as do
from gatera import options as shared
from gatera.errors import InputError, is_full_disk

_INTERRUPTED = 130
# What is wrong with a path that was given, or with who may use it.
_UNUSABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return carry_out(lambda: command(options))


def carry_out(command: Callable[[], int]) -> int:
    """Carry out a command; say what ended it, in one line, and return the exit status."""
    try:
        return command()
    except InputError as error:
        print(f"gatera: {error}", file=sys.stderr)
        return do.USAGE_ERROR
    except KeyboardInterrupt:
        print(
            "gatera: interrupted; everything finished is kept, the same command goes on.",
            file=sys.stderr,
        )
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone, as with `| head`; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if (said := _what_a_user_can_do(error)) is None:
            raise
        print(f"gatera: {said}", file=sys.stderr)
        return do.USAGE_ERROR


def _what_a_user_can_do(error: OSError) -> str | None:
    """Return what to say of a disk or a path that cannot be used; None of any other error."""
    if is_full_disk(error):
        return (
            f"no room left on the disk or quota of {error.filename or 'a file'}; nothing that was "
            "finished is lost. Make room, and the same command goes on."
        )
    if error.errno in _UNUSABLE and error.filename is not None:
        return (
            f"{error.filename} cannot be used ({error.strerror}); allow it, or name another folder "
            "(--store, --report-dir). plan, status and report only read a store."
        )
    return None


# What the commands share


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gatera.studies",
        description="Ablation studies of parameter-efficient fine-tuning.",
        epilog="Exit status: 0 all done; 2 what was given cannot be used; 3 some trials failed "
        "(the report is written, with dashes and reasons); 130 interrupted, everything kept.",
    )
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        command = parsers.add_parser(name, help=help, description=help)
        command.set_defaults(command=function)
        return command

    listing = add("list", do.list_studies, "The studies there are, with what each reproduces.")
    listing.add_argument("--json", action="store_true", help="print JSON")
    plan = add("plan", do.show_plan, "Show a study's trials, parameters and cost; run nothing.")
    shared.add_study(plan, json=True)
    run = add("run", do.run_studies, "Run what is missing of a study, then write its report.")
    shared.add_study_or_all(run)
    run.add_argument(
        "--rehearse",
        action="store_true",
        help="try every row for 20 steps and 20 items of each task, in a store of its own, and "
        "say what the whole takes",
    )
    shared.add_running(run)
    status = add("status", do.show_status, "Show how far a study is; reads files only.")
    shared.add_study(status, json=True)
    status.add_argument("--watch", action="store_true", help="show it again until all is done")
    shared.add_max_attempts(status)
    report = add("report", do.write_report, "Write the tables and figures from what is stored.")
    shared.add_study(report, json=True)
    shared.add_reporting(report)
    shared.add_max_attempts(report)
    gates = add("gates", do.show_gates, "Show what trained gates do, token by token, on a page.")
    shared.add_study(gates, json=True)
    shared.add_gates(gates)
    export = add("export", do.export, "Copy a trained adapter out, as PEFT saves it.")
    shared.add_study(export)
    export.add_argument("variant", metavar="VARIANT")
    export.add_argument("seed", metavar="SEED", type=int)
    export.add_argument(
        "--out", type=Path, metavar="DIR", help="default: ./<study>-<variant>-seed<n>"
    )
    settings = add("settings", do.show_settings, "Every setting: its type, defaults and meaning.")
    settings.add_argument("--json", action="store_true", help="print JSON")
    ui = add("ui", do.serve_ui, "Serve MLflow's UI on the store, on localhost.")
    shared.add_store(ui)
    ui.add_argument("--port", type=int, default=5000, metavar="N", help="default: %(default)s")
    work = add("work", do.work, "Be one worker on a store, until nothing is left to run.")
    work.add_argument("store", type=Path, metavar="STORE")
    work.add_argument(
        "--plan", action="append", default=[], metavar="STEM", help="default: all plans"
    )
    shared.add_data_root(work)
    shared.add_claims(work)
    shared.add_keep(work)
    shared.add_allow_mixed(work)
    sync = add("sync", do.sync, "Rebuild Optuna's and MLflow's view from the store.")
    sync.add_argument("store", type=Path, metavar="STORE")
    shared.add_max_attempts(sync)
    shared.add_tracking(sync)
    merge = add("merge", do.merge, "Bring stores together: copy what others finished into one.")
    merge.add_argument("into", type=Path, metavar="INTO", help="made where it does not exist")
    merge.add_argument("sources", type=Path, nargs="+", metavar="FROM")
    clean = add(
        "clean", do.clean, "Remove what is no longer needed, never a result; show it first."
    )
    clean.add_argument("store", type=Path, metavar="STORE")
    shared.add_keep(clean)
    clean.add_argument("--yes", action="store_true", help="remove it without asking")
    return parser
