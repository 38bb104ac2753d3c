"""The commands: each reads its options, calls what does the work, and prints.

Every import of what does the work stands inside its command, so that others start fast.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from gatera.errors import InputError

if TYPE_CHECKING:
    from gatera.studies.asking import Asked
    from gatera.studies.store.snapshot import Snapshot
    from gatera.studies.store.store import Store
    from gatera.trial import Json


USAGE_ERROR, SOME_FAILED = 2, 3  # exit statuses
_WATCH_SECONDS = 2.0


def list_studies(options: argparse.Namespace) -> int:
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


def show_plan(options: argparse.Namespace) -> int:
    from gatera.studies.interface import planned

    found = planned(_asked(options), options.store)
    print(_json(found.answer) if options.json else found.text)
    for each in found.missing:
        print(f"gatera: {each}", file=sys.stderr)
    return USAGE_ERROR if found.missing else 0


def show_settings(options: argparse.Namespace) -> int:
    from gatera.studies.planning.configuration import described, settings_text

    print(_json(described()) if options.json else settings_text())
    return 0


def _json(value: Json) -> str:
    return json.dumps(value, indent=1, default=dataclasses.asdict)


def run_studies(options: argparse.Namespace) -> int:
    if not options.all:
        return run_study(options)
    from gatera.studies.catalog import entries

    of_each = [_for_study(options, entry.name) for entry in entries()]
    for each in of_each:
        _ = _asked(each).plan_id  # what no study can be run with is refused before any is
    statuses = []
    for number, each in enumerate(of_each, start=1):
        print(f"study {number} of {len(of_each)}: {each.name}", file=sys.stderr)
        statuses.append(_run_one_of_many(each))
    return max(statuses, default=0)


def _run_one_of_many(options: argparse.Namespace) -> int:
    """Run a study; what it cannot be run with is said, and keeps no other from running."""
    try:
        return run_study(options)
    except InputError as error:
        print(f"gatera: {options.name}: {error}", file=sys.stderr)
        return USAGE_ERROR


def _for_study(options: argparse.Namespace, name: str) -> argparse.Namespace:
    """Return the options for one study of all; a tuning phase is changed where there is one."""
    from gatera.studies.catalog import load

    each = argparse.Namespace(**{**vars(options), "name": name})
    if load(name).study.tuning is None:
        each.set = [change for change in options.set if not change.startswith("tuning.")]
    return each


def run_study(options: argparse.Namespace) -> int:
    if options.rehearse:
        return _rehearse(options)
    from gatera.studies.running.carried_out import carry_out, closing_lines
    from gatera.studies.running.supervisor import RunOptions

    run_options = RunOptions(
        max_attempts=options.max_attempts,
        claim_timeout=options.claim_timeout,
        retry=options.retry,
        tracking_uri=options.tracking_uri,
        report_dir=options.report_dir,
        measured=not options.no_measured,
        allow_mixed=options.allow_mixed,
        keep=options.keep,
    )
    _, outcome = carry_out(
        _asked(options),
        options.store,
        run_options,
        launcher=options.launcher,
        workers=options.workers,
        workers_per_gpu=options.workers_per_gpu,
        slurm=options.slurm,
    )
    print(outcome.report.markdown)
    for line in closing_lines(outcome, options.store, options.tracking_uri):
        print(line, file=sys.stderr)
    if stale := outcome.snapshot.counts["stale"]:
        return _say_stale(stale)
    return SOME_FAILED if outcome.snapshot.failed else 0


def _rehearse(options: argparse.Namespace) -> int:
    from gatera.studies.running.rehearsal import rehearsed

    found = rehearsed(
        _asked(options),
        options.store,
        launcher=options.launcher,
        workers=options.workers,
        workers_per_gpu=options.workers_per_gpu,
        slurm=options.slurm,
    )
    print(found.text)
    print("\n".join([*found.failures, f"its store: {found.folder}"]), file=sys.stderr)
    return SOME_FAILED if found.failures else 0


def _say_stale(count: int) -> int:
    print(
        f"{count} results come from other code than today's and are left out; "
        "run again with --retry stale.",
        file=sys.stderr,
    )
    return SOME_FAILED


def show_status(options: argparse.Namespace) -> int:
    from gatera.studies.store.snapshot import take_snapshot
    from gatera.studies.views.budget import describe_tuning, tuning_snapshot
    from gatera.studies.views.progress import trial_rows

    store = _store(options, verifies=False)
    plan = store.plan(_asked(options).plan_id)
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
        plan = store.plan(plan.id)


def _print_status(snapshot: Snapshot) -> None:
    from gatera.studies.views.progress import failure_lines, whole_line, worker_lines

    print(f"{snapshot.plan.id}: {whole_line(snapshot)}")
    for line in (*worker_lines(snapshot), *failure_lines(snapshot)):
        print(f"  {line}")


def write_report(options: argparse.Namespace) -> int:
    from gatera.studies.interface import loaded

    report = loaded(_asked(options), options.store, max_attempts=options.max_attempts)
    written = report.write(
        options.report_dir, measured=not options.no_measured, allow_mixed=options.allow_mixed
    )
    if options.json:
        answer = {
            "study": report.record.study,
            "scale": report.record.scale,
            "rows": written.rows,
            "contrasts": written.contrasts,
            "knowledge_at_equal_accuracy": written.matched,
            "order": written.order,
            "files": [str(path) for path in written.files],
        }
        print(_json(answer))
    else:
        print(written.markdown)
    stale = sum(trial.state == "stale" for row in report.record.rows for trial in row.trials)
    return _say_stale(stale) if stale else 0


def show_gates(options: argparse.Namespace) -> int:
    from gatera.studies.gate_reading import read_gates

    found = read_gates(
        _asked(options),
        options.store,
        variants=options.variant,
        seed=options.seed,
        prompts=options.prompt,
        report_dir=options.report_dir,
        say=lambda line: print(line, file=sys.stderr),
    )
    if options.json:
        answer = {
            "study": found.plan.study,
            "scale": found.plan.scale,
            **found.values,
            "files": [str(path) for path in found.files],
        }
        print(_json(answer))
    else:
        print("\n".join(found.findings))
        print(f"page: {found.files[0]}", file=sys.stderr)
        print("`run`, typed again, puts it into the report and into MLflow.", file=sys.stderr)
    return 0


def export(options: argparse.Namespace) -> int:
    from gatera.studies.export import export_adapter

    store = _store(options)
    plan = store.plan(_asked(options).plan_id)
    target = export_adapter(store, plan, options.variant, options.seed, options.out)
    print(target)
    return 0


def serve_ui(options: argparse.Namespace) -> int:
    store = _store(options)
    print(f"MLflow's UI: http://127.0.0.1:{options.port} (Ctrl-C ends it)", file=sys.stderr)
    from gatera.studies.views.mlflow_database import ui_addresses, ui_command

    for study, address in ui_addresses(store, options.port).items():
        print(f"  {study}: {address}", file=sys.stderr)
    # Job execution starts one process more for each core and is not needed to look at runs.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.run(ui_command(store, options.port), env=environment, check=False).returncode


def work(options: argparse.Namespace) -> int:
    from gatera.studies.store.owner import worker_name
    from gatera.studies.workers.worker import work
    from gatera.tasks.benchmarks.files import DATA_ROOT_VARIABLE

    if options.data_root is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(options.data_root.absolute())
    work(
        options.store,
        plan_ids=options.plan,
        worker=worker_name(),
        max_attempts=options.max_attempts,
        claim_timeout=options.claim_timeout,
        allow_mixed=options.allow_mixed,
        keep=options.keep,
    )
    return 0


def sync(options: argparse.Namespace) -> int:
    from gatera.studies.running.supervisor import synchronize
    from gatera.studies.store.store import Store

    store = Store(options.store)
    for row in synchronize(store, options.tracking_uri, options.max_attempts):
        print(f"{row['plan']}: {row['trials']} trials")
    return 0


def merge(options: argparse.Namespace) -> int:
    from gatera.studies.running import merging
    from gatera.studies.store.store import Store

    for source in options.sources:
        Store(source)  # one that is none is refused before anything is made
    unequal = 0
    for told in merging.merge(Store(options.into, create=True), options.sources):
        print(
            f"{told.source}: {told.brought} trials brought, {told.known} there already, "
            f"{told.unfinished} unfinished and left, {len(told.unequal)} with another result"
        )
        for line in told.unequal:
            print(f"  unequal, the result in {options.into} stays: {line}")
        for plan_id in told.other_plans:
            print(f"  plan {plan_id} differs, the one in {options.into} stays; `run` brings it up")
        unequal += len(told.unequal)
    print("`run` shows the whole, `sync` brings Optuna and MLflow up to it", file=sys.stderr)
    return SOME_FAILED if unequal else 0


def clean(options: argparse.Namespace) -> int:
    from gatera.studies.store.cleaning import (
        removable,
        removal_lines,
        remove,
        surplus_adapters,
    )
    from gatera.studies.store.store import Store

    store = Store(options.store)
    plans = [store.plan(plan_id) for plan_id in store.plan_ids()]
    removals = [*removable(store), *surplus_adapters(store, plans, options.keep)]
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


def _asked(options: argparse.Namespace) -> Asked:
    from gatera.studies.asking import Asked

    return Asked.of(
        options.name,
        scale=options.scale,
        seeds=options.seeds,
        tasks=options.tasks,
        variants=options.variants,
        set=options.set,
        data_root=options.data_root,
    )


def _store(options: argparse.Namespace, *, verifies: bool = True) -> Store:
    from gatera.studies.store.store import Store

    return Store(options.store, verifies=verifies)
