"""Options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from gatera.settings import KEEPS, SCALES

Parser = argparse.ArgumentParser

_CLAIM_TIMEOUT = 3600.0  # seconds


def add_study(parser: Parser, *, json: bool = False) -> None:
    """Options that say which study, and how it departs from its defaults."""
    parser.add_argument("name", metavar="NAME", help=_NAME)
    _add_departures(parser)
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def add_study_or_all(parser: Parser) -> None:
    """The same, or all studies that `list` shows, one after another."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help=_NAME)
    which.add_argument("--all", action="store_true", help="every study that `list` shows")
    _add_departures(parser)


_NAME = "a study's name, or the path of a study file"


def _add_departures(parser: Parser) -> None:
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="default: %(default)s")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--tasks", type=_names, metavar="A,B", help="the tasks that are scored")
    parser.add_argument("--variants", type=_names, metavar="A,B", help="the rows that are run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a setting for all variants; a variant's own changes win",
    )
    add_data_root(parser)
    add_store(parser)


def add_data_root(parser: Parser) -> None:
    """Where the real data sets lie."""
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="default: GATERA_DATA_ROOT")


def add_store(parser: Parser) -> None:
    """The store's folder."""
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("gatera-store"),
        metavar="DIR",
        help="default: ./%(default)s",
    )


def add_running(parser: Parser) -> None:
    """How a run is carried out."""
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="default: one a visible GPU, else one a core"
    )
    parser.add_argument("--workers-per-gpu", type=_positive, default=1, metavar="N")
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="what starts workers; default: %(default)s",
    )
    parser.add_argument(
        "--slurm",
        default="",
        metavar="KEY=VALUE,...",
        help="options of sbatch, such as partition=gpu,time=4:00:00",
    )
    parser.add_argument(
        "--retry", choices=("failed", "stale"), help="run failed, or outdated, trials again"
    )
    add_claims(parser)
    add_keep(parser)
    add_tracking(parser)
    add_reporting(parser)


def add_keep(parser: Parser) -> None:
    """Which adapters stay in the store."""
    parser.add_argument(
        "--keep",
        choices=KEEPS,
        default=KEEPS[0],
        help="adapters that stay once they are scored: all (the default), of each row the best "
        "on validation, or none; results stay",
    )


def add_claims(parser: Parser) -> None:
    """Options that say when an attempt is given up, and when a trial is."""
    add_max_attempts(parser)
    parser.add_argument(
        "--claim-timeout",
        type=_seconds,
        default=_CLAIM_TIMEOUT,
        metavar="S",
        help="seconds without progress after which a trial is taken over; default: %(default)g",
    )


def add_max_attempts(parser: Parser) -> None:
    """When a trial counts as failed."""
    parser.add_argument(
        "--max-attempts", type=_positive, metavar="N", help="failures after which a trial is left"
    )


def add_tracking(parser: Parser) -> None:
    """Where MLflow's view goes."""
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="default: SQLite in the store; none: without MLflow"
    )


def add_reporting(parser: Parser) -> None:
    """What a report says, and where it goes."""
    add_report_dir(parser)
    parser.add_argument(
        "--no-measured", action="store_true", help="leave out what a clock or a host says"
    )
    add_allow_mixed(parser)


def add_report_dir(parser: Parser) -> None:
    """Where files for people go."""
    parser.add_argument(
        "--report-dir",
        type=Path,
        default=Path("reports"),
        metavar="DIR",
        help="default: ./%(default)s",
    )


def add_gates(parser: Parser) -> None:
    """Whose gates are read, and on what beside the test items."""
    parser.add_argument(
        "--variant", type=_names, metavar="V", help="the row, or rows; default: all with a gate"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="whose models; default: of each row the first done"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="a question of your own, put into the study's template; may be repeated",
    )
    add_report_dir(parser)


def add_allow_mixed(parser: Parser) -> None:
    """Whether unlike results may stand together."""
    parser.add_argument(
        "--allow-mixed", action="store_true", help="let results that were made differently mix"
    )


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (value := float(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
