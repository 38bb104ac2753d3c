"""The command line: parses, calls one function, prints.

Tables and JSON go to stdout, progress to stderr. Exit status: 0 all done, 2 what was given cannot
be used, 3 some trials failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gatera import options as shared
from gatera.errors import InputError, is_full_disk

if TYPE_CHECKING:
    from gatera.reports.statistics import PairedDifference
    from gatera.studies.catalog import LoadedStudy
    from gatera.studies.plan import Plan, Request
    from gatera.studies.progress import Snapshot
    from gatera.studies.store import Store
    from gatera.trial import Json

_USAGE_ERROR, _SOME_FAILED, _INTERRUPTED = 2, 3, 130
_WATCH_SECONDS = 2.0
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
        return _USAGE_ERROR
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
        return _USAGE_ERROR


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


# Commands


def _list(options: argparse.Namespace) -> int:
    from gatera.studies.catalog import entries

    found = entries()
    if options.json:
        rows = [
            {"name": e.name, "title": e.title, "reproduces": e.reproduces, "path": str(e.path)}
            for e in found
        ]
        print(_json(rows))
        return 0
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        print(f"{entry.name:<{width}}  {entry.title}")
        if entry.reproduces:
            print(f"{'':<{width}}  reproduces {entry.reproduces}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from gatera.studies.budget import as_stored, describe_tuning, tuning_snapshot
    from gatera.studies.describe import describe_variants
    from gatera.studies.forecast import estimate, expected_detectable_difference, plan_text
    from gatera.studies.outlook import trial_outlook
    from gatera.studies.progress import take_snapshot

    store = _existing_store(options)
    plan = as_stored(store, _make_plan(options))
    counted = describe_variants(plan)
    snapshot = take_snapshot(store, plan) if store is not None else None
    answer = {
        "study": plan.study,
        "scale": plan.scale,
        "trials": trial_outlook(store, plan, snapshot),
        "variants": {
            name: {
                "changes": changes,
                "differs": {field: list(pair) for field, pair in plan.differing(name).items()},
                "undeclared": plan.undeclared(name),
                **counted[name],
            }
            for name, changes in plan.changes.items()
        },
        "tuning": describe_tuning(plan, tuning_snapshot(store, plan)),
        "estimate": estimate(plan, snapshot),
        "detectable_difference": expected_detectable_difference(
            plan, _measured_spread(store, plan)
        ),
        "notes": list(plan.notes),
        "missing": list(plan.missing),
    }
    print(_json(answer) if options.json else plan_text(plan, answer))
    for each in plan.missing:
        print(f"gatera: {each}", file=sys.stderr)
    return _USAGE_ERROR if plan.missing else 0


def _measured_spread(store: Store | None, plan: Plan) -> PairedDifference | None:
    if store is None:
        return None
    from gatera.reports.tables import measured_spread
    from gatera.studies.gather import gather

    return measured_spread(gather(store, plan))


def _settings(options: argparse.Namespace) -> int:
    from gatera.studies.configuration import described, settings_text

    print(_json(described()) if options.json else settings_text())
    return 0


def _json(value: Json) -> str:
    return json.dumps(value, indent=1, default=dataclasses.asdict)


def _run(options: argparse.Namespace) -> int:
    from gatera.studies.describe import describe_variants
    from gatera.studies.display import Display
    from gatera.studies.launch import choose
    from gatera.studies.progress import failure_lines
    from gatera.studies.store import Store
    from gatera.studies.supervisor import RunOptions, run

    plan = _make_plan(options)
    folder: Path = options.store
    unchecked = not (folder / "plans" / f"{plan.stem}.json").exists()
    if unchecked:
        describe_variants(plan)  # refuses what no model can be built for, before anything changes
    logs = folder.absolute() / "logs"
    if options.launcher == "slurm":
        chosen = choose.slurm(logs, options.data_root, options.workers, options.slurm)
    else:
        chosen = choose.local(
            logs, options.data_root, plan.scale, options.workers, options.workers_per_gpu
        )
    launcher, slots = chosen
    store = Store(folder, create=True)
    display = Display(plan, store.folder, sys.stderr)
    run_options = RunOptions(
        max_attempts=options.max_attempts,
        claim_timeout=options.claim_timeout,
        retry=options.retry,
        tracking_uri=options.tracking_uri,
        report_dir=options.report_dir,
        measured=not options.no_measured,
        allow_mixed=options.allow_mixed,
    )
    outcome = run(
        store,
        plan,
        run_options,
        launcher=launcher,
        slots=slots,
        show=display.show,
        say=display.say,
    )
    display.end()
    print(outcome.report.markdown)
    for line in (*outcome.warnings, *failure_lines(outcome.snapshot)):
        print(line, file=sys.stderr)
    print(f"report: {outcome.report.files[0]}", file=sys.stderr)
    if stale := outcome.snapshot.counts["stale"]:
        return _say_stale(stale)
    return _SOME_FAILED if outcome.snapshot.failed else 0


def _say_stale(count: int) -> int:
    print(
        f"{count} results come from other code than today's and are left out; "
        "run again with --retry stale.",
        file=sys.stderr,
    )
    return _SOME_FAILED


def _status(options: argparse.Namespace) -> int:
    from gatera.studies.budget import describe_tuning, tuning_snapshot
    from gatera.studies.progress import take_snapshot, trial_rows

    store = _store(options)
    plan = store.plan(_stem(options))
    while True:
        snapshot = take_snapshot(store, plan, max_attempts=options.max_attempts)
        tuned = tuning_snapshot(store, plan, max_attempts=options.max_attempts)
        if options.json:
            answer = {
                "study": plan.study,
                "scale": plan.scale,
                "counts": snapshot.counts,
                "eta_seconds": snapshot.eta_seconds,
                "tuning": describe_tuning(plan, tuned),
                "trials": trial_rows(snapshot),
            }
            print(_json(answer))
        else:
            for each in filter(None, (tuned, snapshot)):
                _print_status(each)
        if not options.watch or not snapshot.unfinished:
            return 0
        time.sleep(_WATCH_SECONDS)
        plan = store.plan(plan.stem)


def _print_status(snapshot: Snapshot) -> None:
    from gatera.studies.progress import failure_lines, whole_line, worker_lines

    print(f"{snapshot.plan.stem}: {whole_line(snapshot)}")
    for line in (*worker_lines(snapshot), *failure_lines(snapshot)):
        print(f"  {line}")


def _report(options: argparse.Namespace) -> int:
    from gatera.reports.write import write_report
    from gatera.studies.gather import gather

    store = _store(options)
    plan = store.plan(_stem(options))
    record = gather(
        store,
        plan,
        max_attempts=options.max_attempts,
        study_sha256=_loaded(options).sha256,
    )
    written = write_report(
        record,
        options.report_dir,
        measured=not options.no_measured,
        allow_mixed=options.allow_mixed,
    )
    if options.json:
        answer = {
            "study": plan.study,
            "scale": plan.scale,
            "rows": written.rows,
            "order": written.order,
            "files": [str(path) for path in written.files],
        }
        print(_json(answer))
    else:
        print(written.markdown)
    stale = sum(trial.state == "stale" for row in record.rows for trial in row.trials)
    return _say_stale(stale) if stale else 0


def _export(options: argparse.Namespace) -> int:
    from gatera.studies.export import export_adapter

    store = _store(options)
    plan = store.plan(_stem(options))
    target = export_adapter(store, plan, options.variant, options.seed, options.out)
    print(target)
    return 0


def _ui(options: argparse.Namespace) -> int:
    store = _store(options)
    print(f"MLflow's UI: http://127.0.0.1:{options.port} (Ctrl-C ends it)", file=sys.stderr)
    from gatera.studies.tracking import ui_command

    # Job execution starts one process more for each core and is not needed to look at runs.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.run(ui_command(store, options.port), env=environment, check=False).returncode


def _work(options: argparse.Namespace) -> int:
    from gatera.studies.owner import worker_name
    from gatera.studies.worker import work
    from gatera.tasks import DATA_ROOT_VARIABLE

    if options.data_root is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(options.data_root.absolute())
    work(
        options.store,
        stems=options.plan,
        worker=worker_name(),
        max_attempts=options.max_attempts,
        claim_timeout=options.claim_timeout,
        allow_mixed=options.allow_mixed,
    )
    return 0


def _sync(options: argparse.Namespace) -> int:
    from gatera.studies.store import Store
    from gatera.studies.supervisor import synchronize

    store = Store(options.store)
    for row in synchronize(store, options.tracking_uri, options.max_attempts):
        print(f"{row['plan']}: {row['trials']} trials")
    return 0


def _clean(options: argparse.Namespace) -> int:
    from gatera.studies.cleaning import removable, removal_lines, remove
    from gatera.studies.store import Store

    store = Store(options.store)
    removals = removable(store)
    if not removals:
        print("nothing to remove")
        return 0
    print("\n".join(removal_lines(store, removals)))
    if options.yes or _agreed("remove these? [y/N] "):
        remove(removals)
        print("removed")
    else:
        print("nothing was removed; --yes removes them", file=sys.stderr)
    return 0


def _agreed(question: str) -> bool:
    """Ask on a terminal; elsewhere nobody agrees."""
    return sys.stdin.isatty() and input(question).strip().lower() in ("y", "yes")


# What the commands share


def _loaded(options: argparse.Namespace) -> LoadedStudy:
    from gatera.studies.catalog import load

    return load(options.name)


def _request(options: argparse.Namespace) -> Request:
    from gatera.studies.configuration import parse_overrides
    from gatera.studies.plan import Request

    return Request(
        scale=options.scale,
        seeds=options.seeds,
        tasks=options.tasks,
        variants=options.variants,
        overrides=parse_overrides(options.set),
        data_root=options.data_root,
    )


def _make_plan(options: argparse.Namespace) -> Plan:
    from gatera.studies.plan import make_plan

    return make_plan(_loaded(options), _request(options), strict=options.strict)


def _stem(options: argparse.Namespace) -> str:
    """Return the stem of the plan that the options describe, without reading any data."""
    from gatera.studies.plan import stem_of

    return stem_of(_loaded(options), _request(options))


def _store(options: argparse.Namespace) -> Store:
    from gatera.studies.store import Store

    return Store(options.store)


def _existing_store(options: argparse.Namespace) -> Store | None:
    folder: Path = options.store
    there = (folder / "format.json").exists() or (folder.exists() and not folder.is_dir())
    return _store(options) if there else None


# Options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gatera.studies",
        description="Ablation studies of parameter-efficient fine-tuning.",
        epilog="Exit status: 0 all done; 2 what was given cannot be used; 3 some trials failed "
        "(the report is written, with dashes and reasons); 130 interrupted, everything kept.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(command=function, strict=False)
        return command

    listing = add("list", _list, "The studies there are, with what each reproduces.")
    listing.add_argument("--json", action="store_true", help="print JSON")
    plan = add("plan", _plan, "Show a study's trials, parameters and cost; run nothing.")
    shared.add_study(plan, json=True)
    run = add("run", _run, "Run what is missing of a study, then write its report.")
    run.set_defaults(strict=True)
    shared.add_study(run)
    shared.add_running(run)
    status = add("status", _status, "Show how far a study is; reads files only.")
    shared.add_study(status, json=True)
    status.add_argument("--watch", action="store_true", help="show it again until all is done")
    shared.add_max_attempts(status)
    report = add("report", _report, "Write the tables and figures from what is stored.")
    shared.add_study(report, json=True)
    shared.add_reporting(report)
    shared.add_max_attempts(report)
    export = add("export", _export, "Copy a trained adapter out, as PEFT saves it.")
    shared.add_study(export)
    export.add_argument("variant", metavar="VARIANT")
    export.add_argument("seed", metavar="SEED", type=int)
    export.add_argument(
        "--out", type=Path, metavar="DIR", help="default: ./<study>-<variant>-seed<n>"
    )
    settings = add("settings", _settings, "Every setting: its type, defaults and meaning.")
    settings.add_argument("--json", action="store_true", help="print JSON")
    ui = add("ui", _ui, "Serve MLflow's UI on the store, on localhost.")
    shared.add_store(ui)
    ui.add_argument("--port", type=int, default=5000, metavar="N", help="default: %(default)s")
    work = add("work", _work, "Be one worker on a store, until nothing is left to run.")
    work.add_argument("store", type=Path, metavar="STORE")
    work.add_argument(
        "--plan", action="append", default=[], metavar="STEM", help="default: all plans"
    )
    shared.add_data_root(work)
    shared.add_claims(work)
    shared.add_allow_mixed(work)
    sync = add("sync", _sync, "Rebuild Optuna's and MLflow's view from the store.")
    sync.add_argument("store", type=Path, metavar="STORE")
    shared.add_max_attempts(sync)
    shared.add_tracking(sync)
    clean = add("clean", _clean, "Remove what is no longer needed, never a result; show it first.")
    clean.add_argument("store", type=Path, metavar="STORE")
    clean.add_argument("--yes", action="store_true", help="remove it without asking")
    return parser
