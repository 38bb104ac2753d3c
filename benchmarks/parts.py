"""Parts of a benchmark, each in a process of its own, whose measurements nothing takes away.

A part sends its section anew after every measurement, and the section is in the report at once. So
an error, a crash, the end of the part's time or a signal leaves what was measured until then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from measuring import one_line, progress, write_section

Measuring = Iterator[tuple[str, str]]  # what was just measured; the section's text with it
Event = Mapping[str, str]  # "said" and "text" of a measurement, or "missing" or "failed", the end

UNDER_WAY = "*Under way: this was written while more was being measured.*"


def serve(measure: Callable[[], Measuring]) -> None:
    """Measure a part in this process, and send what comes of it through standard output.

    What the libraries print goes to standard error. When the process that reads has ended, this
    one and those that it started end too.
    """
    if os.getpid() == os.getpgrp():  # else the group is somebody's who runs this by hand
        threading.Thread(target=_end_with_reader, daemon=True).start()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for event in told(measure):
            print(json.dumps(event), file=out, flush=True)


def _end_with_reader() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def told(measure: Callable[[], Measuring]) -> Iterator[Event]:
    """Yield each measurement, and the missing package or the error that ends them."""
    try:
        for said, text in measure():
            yield {"said": said, "text": text}
    except Exception as error:
        package = str(getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package and find_spec(package) is None:
            yield {"missing": package}
            return
        traceback.print_exc()
        yield {"failed": one_line(error)}


def events(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> Iterator[Event]:
    """Run a process that serves a part, for so long at most; yield what it tells, and its end."""
    late = threading.Event()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        timer = threading.Timer(seconds, lambda: (late.set(), _end_all(process)))
        timer.start()
        try:
            for line in process.stdout or ():
                if line.endswith("\n"):  # the last may be cut
                    yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            _end_all(process)
    if late.is_set():
        yield {"failed": f"its {seconds:.0f} seconds were over"}
    elif status:
        yield {"failed": f"its process ended with status {status}"}


def _end_all(process: subprocess.Popen[str]) -> None:
    """End a process with those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def keep(
    told: Iterator[Event], report: Path, name: str, title: str, heading: str, began: float
) -> bool:
    """Keep in the report what a part tells; return whether the part failed.

    Args:
        told: What it tells.
        report: The file that holds the sections.
        name: The part's, by which its section is found again.
        title: What a new report opens with.
        heading: Of the section, should nothing be measured.
        began: `time.monotonic()` when the benchmark began, for the progress on standard error.
    """
    text, ends = "", ["it was interrupted"]
    failed = False

    def write(note: str) -> None:
        write_section(report, name, f"{text or heading}\n{note}", title)

    def say(what: str) -> None:
        progress(f"{time.monotonic() - began:4.0f} s  {name}: {what}")

    say("begins")
    try:
        with contextlib.closing(told):
            found = []
            for event in told:
                if "text" in event:
                    text, said = event["text"], event["said"]
                    write(UNDER_WAY)
                else:
                    failed = failed or "failed" in event
                    said = event.get("failed") or f"the package {event['missing']} is missing here"
                    found.append(said)
                say(said)
        ends = found
    finally:
        write(_ending(ends, bool(text)))
    return failed


def _ending(reasons: Sequence[str], measured: bool) -> str:
    """The last line of a section: why there is no more, "" where all was measured."""
    if not reasons:
        return ""
    if not measured:
        return f"Not measured: {reasons[0]}."
    return f"Ended early: {reasons[0]}. What stands here was measured before."


def end_on_signals() -> None:
    """Have SIGTERM, SIGINT and SIGHUP end this process as an exit does, which keeps things."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
