"""The report at the end of a run takes in what lies beside it, and is left alone otherwise."""

from __future__ import annotations

import pytest
from made_up import commit_result

from gatera.studies.running.report import report_of_run


@pytest.fixture
def filled(store, plan):
    store.write_plan(plan)
    for trial in plan.trials:
        commit_result(store, trial, 0.5 + trial.seed / 100)
    return store


def write(store, plan, folder):
    return report_of_run(store, plan, folder, max_attempts=None, measured=True, allow_mixed=False)


def test_gates_that_were_read_come_into_the_report_with_the_next_run(filled, plan, tmp_path):
    folder = tmp_path / "reports"
    first = write(filled, plan, folder)
    assert write(filled, plan, folder).tracked is None  # it was up to date
    gates = folder / f"{plan.id}.gates.md"
    gates.write_text("# Gates")
    drawn = folder / "figures" / f"{plan.id}.gates_map.png"
    drawn.write_bytes(b"a picture")

    again = write(filled, plan, folder)

    assert set(again.files) == {*first.files, gates, drawn}
    assert again.files[0] == first.files[0]
    assert f"[{gates.name}]({gates.name})" in again.markdown
    assert write(filled, plan, folder).tracked is None
    gates.write_text("# Other gates")
    assert write(filled, plan, folder).tracked is not None
    report, page, numbers, figures = again.file_lines
    assert (report, page) == (f"report: {folder / plan.id}.md", f"page: {folder / plan.id}.html")
    assert numbers == f"also: {folder / plan.id}.{{csv,trials.csv,tex,tasks.tex,gates.md}}"
    assert figures.startswith(f"also: {folder / 'figures' / plan.id}.{{differences.png,")
    assert figures.endswith(",gates_map.png}")
