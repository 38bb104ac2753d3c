"""The file of a trial's predictions: one row an item."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from gatera.training.evaluation.scoring import Prediction

_SCHEMA = pyarrow.schema(
    [
        ("task", pyarrow.string()),
        ("index", pyarrow.int32()),
        ("cluster", pyarrow.string()),
        ("output", pyarrow.string()),
        ("extracted", pyarrow.string()),
        ("answer", pyarrow.string()),
        ("correct", pyarrow.bool_()),
        ("score", pyarrow.float64()),
        ("log_probability", pyarrow.float64()),
    ]
)


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> str:
    """Write predictions as Parquet, on disk complete or not at all; return the SHA-256, in hex.

    The same predictions give the same bytes with the same version of pyarrow.
    """
    table = pyarrow.Table.from_pylist([vars(each) for each in predictions], schema=_SCHEMA)
    temporary = path.with_suffix(".tmp")
    try:
        pyarrow.parquet.write_table(table, temporary, compression="zstd", version="2.6")
        with temporary.open("rb+") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return digest
