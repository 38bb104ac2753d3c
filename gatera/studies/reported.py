"""A report in Python: its sentences, and its numbers as DataFrames."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from gatera.reports.records import StudyRecord
    from gatera.reports.tables import Table
    from gatera.reports.write import WrittenReport
    from gatera.studies.store.store import Store


@dataclass(frozen=True)
class Report:
    """What a study's stored results say: sentences, tables, and the files that were written."""

    record: StudyRecord
    _store: Store = field(repr=False)
    _data_root: Path | None = field(default=None, repr=False)  # for the prompts
    files: tuple[Path, ...] = ()
    failed: tuple[str, ...] = ()  # why trials failed, a line each
    warnings: tuple[str, ...] = ()

    @functools.cached_property
    def _built(self) -> Table:
        from gatera.reports.tables import build_table

        return build_table(self.record)

    @property
    def findings(self) -> list[str]:
        """The sentences that a report begins with."""
        from gatera.reports.forms.findings import findings

        return findings(self._built)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """A line a row: average, difference to the reference, verdict; the CSV's numbers."""
        import pandas as pd

        from gatera.reports.forms.values import compact_rows

        found = pd.DataFrame(compact_rows(self._built))
        words = {"variant", "verdict"}
        numbers = [name for name in found if name not in words]
        found[numbers] = found[numbers].apply(pd.to_numeric)  # also where every one is missing
        return found

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """A line a trial: its scores and metrics, or why it has none; the trials' CSV."""
        import pandas as pd

        from gatera.reports.forms.values import trial_rows

        return pd.DataFrame(trial_rows(self._built))

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """A line an answer to a test item, of all finished trials; log-probabilities in nats."""
        import pandas as pd

        frames = []
        for row in self.record.rows:
            for seed, result in row.results.items():
                found = pd.read_parquet(self._store.predictions_path(result.key, result.attempt))
                found.insert(0, "variant", row.variant)
                found.insert(1, "seed", seed)
                frames.append(found)
        if not frames:
            return pd.DataFrame()
        answers = pd.concat(frames, ignore_index=True)
        return answers.rename(columns={"log_probability": "log_probability_nats"})

    @functools.cached_property
    def gates(self) -> pd.DataFrame:
        """A line a gated module of each trial: mean, entropy, shares near 0 and 1."""
        import pandas as pd

        lines = [
            {"variant": row.variant, "seed": seed, "module": module, **statistics}
            for row in self.record.rows
            for seed, result in row.results.items()
            for module, statistics in result.gates.get("modules", {}).items()
        ]
        return pd.DataFrame(lines).rename(columns={"entropy": "entropy_nats"})

    @property
    def markdown(self) -> str:
        """The whole report, without its figures."""
        from gatera.reports.forms.markdown import markdown

        return markdown(self._built)

    def write(
        self, folder: str | Path, *, measured: bool = True, allow_mixed: bool = False
    ) -> WrittenReport:
        """Write every form of the report into `folder`; return its text, rows and files.

        Raises:
            InputError: the results were not made alike, and `allow_mixed` is false.
        """
        from gatera.reports.write import write_report
        from gatera.studies.gathering.answers import read_answers

        return write_report(
            self.record,
            Path(folder),
            read_answers(self._store, self.record, self._data_root),
            measured=measured,
            allow_mixed=allow_mixed,
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: findings, table, differences."""
        from gatera.reports.pages.notebook import html

        return html(self._built)

    def __repr__(self) -> str:
        """Return the findings."""
        head = f"{self.record.study} at scale {self.record.scale}"
        return "\n".join([head, *(f"- {sentence}" for sentence in self.findings)])
