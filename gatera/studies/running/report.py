"""The report at the end of a run: written anew where anything that it is made of has changed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from gatera.reports.files import gate_files
from gatera.studies.planning.plan import Plan
from gatera.studies.store.index import source_sha256
from gatera.studies.store.store import Store
from gatera.studies.views.told import Told, hashes
from gatera.trial import Json

if TYPE_CHECKING:
    from gatera.reports.forms.tracked import Tracked

_DRAWN_WITH = ("jinja2", "matplotlib", "numpy", "scipy")


@dataclass(frozen=True)
class RunReport:
    """The text and the files of a report."""

    markdown: str
    files: tuple[Path, ...]
    tracked: Tracked | None = None  # what a tracker shows of it; None where it was up to date

    @property
    def findings(self) -> list[str]:
        """The sentences that it begins with, read from its text: one may be there unbuilt."""
        _, _, rest = self.markdown.partition("\n## Findings\n\n")
        lines = itertools.takewhile(lambda line: line.startswith("- "), rest.splitlines())
        return [line.removeprefix("- ") for line in lines]

    @property
    def file_lines(self) -> list[str]:
        """Where it is: text and page, then its other files, a line a folder, as a shell reads."""
        text, *others = self.files
        pages = [path for path in others if path.suffix == ".html"]
        lines = [f"report: {text}", *(f"page: {path}" for path in pages)]
        endings: dict[Path, list[str]] = {}
        for path in others:
            if path not in pages:
                of_folder = endings.setdefault(path.parent, [])
                of_folder.append(path.name.removeprefix(f"{text.stem}."))
        return lines + [
            f"also: {folder / text.stem}.{{{','.join(found)}}}" for folder, found in endings.items()
        ]


def report_of_run(
    store: Store,
    plan: Plan,
    folder: Path,
    *,
    max_attempts: int | None,
    measured: bool,
    allow_mixed: bool,
    data_root: Path | None = None,
) -> RunReport:
    """Write the report of a plan, and the store's index; leave one that is up to date alone.

    Args:
        store: Where the results are.
        plan: As the store has it.
        folder: Where the report goes.
        max_attempts: Failures after which a trial counts as failed.
        measured: Whether to print what a clock or a host says.
        allow_mixed: Whether results that were not made alike may stand in one table.
        data_root: Where the real data sets lie, for the prompts; None: GATERA_DATA_ROOT.

    Raises:
        InputError: the results were not made alike, and `allow_mixed` is false.
    """
    told = Told(store, plan, f"report in {folder.absolute()}")
    gates = gate_files(folder, plan.id)
    made_by: Json = {
        "source": source_sha256(),
        "versions": {name: metadata.version(name) for name in _DRAWN_WITH},
        "options": [measured, allow_mixed],
        "gates": hashes(gates),  # which the report links
    }
    if store.index.is_there and (there := _up_to_date(told, made_by)) is not None:
        return there
    # What draws takes seconds to load.
    from gatera.reports.write import write_report
    from gatera.studies.gathering.answers import read_answers
    from gatera.studies.gathering.finished import read_finished
    from gatera.studies.gathering.gather import gather

    record = gather(store, plan, max_attempts=max_attempts)
    for trial in plan.trials:
        if store.has_result(trial.key):  # stale ones too, which the report leaves out
            read_finished(store, trial)
    store.index.save()
    answers = read_answers(store, record, data_root)
    written = write_report(record, folder, answers, measured=measured, allow_mixed=allow_mixed)
    files = (*written.files, *gates)
    told.note({**made_by, "files": hashes(files)})
    return RunReport(written.markdown, files, written.tracked)


def _up_to_date(told: Told, made_by: Json) -> RunReport | None:
    """Return the report that was written, where writing it anew would change nothing."""
    noted = told.also()
    if not isinstance(noted, dict) or not isinstance(noted.get("files"), dict):
        return None
    files = tuple(map(Path, noted["files"]))
    if not told.holds({**made_by, "files": hashes(files)}):
        return None
    return RunReport(files[0].read_text(encoding="utf-8"), files)
