"""Data sets of the hub, converted record by record.

Needs the extra `hub` (the `datasets` package) and a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatera.errors import InputError
from gatera.tasks.example import Example

Record = Mapping[str, Any]

PARQUET = "refs/convert/parquet"  # the automatic branch, where the main one is a script


@dataclass(frozen=True)
class HubSource:
    """Where a task's data set is on the hub, and how one of its records becomes an item."""

    hub_id: str
    configuration: str | None
    splits: Mapping[str, str]  # of "train" and "test" those there are -> the hub's split
    convert: Callable[[Record], Example]
    revision: str | None = None

    def load(self, task: str, split: str) -> list[Example]:
        """Fetch the items of `task` that a split, of "train" and "test", is made of.

        Raises:
            InputError: the `datasets` package is missing, or the hub does not answer.
        """
        return [self.convert(record) for record in self._fetch(task, self.splits[split])]

    def _fetch(self, task: str, split: str) -> Sequence[Record]:
        where = (
            f"task {task}: no data root was given (--data-root or GATERA_DATA_ROOT), so it would "
            f"come from the hub data set {self.hub_id}"
        )
        try:
            import datasets
        except ImportError as error:
            raise InputError(
                f"{where}, which needs the package `datasets`; give a data root, or install it "
                "with `pip install gatera[hub]`."
            ) from error
        try:
            rows: Sequence[Record] = datasets.load_dataset(
                self.hub_id, self.configuration, split=split, revision=self.revision
            )
        except Exception as error:  # the hub's clients raise some twenty unrelated classes
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"{where}, which could not be read ({type(error).__name__}: {reason[0]}); give a "
                "data root, or check the connection."
            ) from error
        return rows
