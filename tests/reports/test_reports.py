import csv
import dataclasses
import io
import json
import re
import shutil

import pytest
from made_up import commit_result, note_end

from gatera.errors import InputError
from gatera.reports.forms.figures import draw_curve, draw_differences
from gatera.reports.forms.latex import latex, latex_by_task
from gatera.reports.forms.markdown import markdown
from gatera.reports.forms.values import csv_text, json_rows, trials_csv_text
from gatera.reports.judging.comparison import item_differences
from gatera.reports.published import TABLES
from gatera.reports.records import COMPARED, TrialRecord, TuningRecord, refuse_mixed
from gatera.reports.tables import build_table
from gatera.reports.write import write_report
from gatera.studies import Variant
from gatera.studies.gathering.gather import gather
from gatera.studies.planning.enumeration import Request, make_plan
from gatera.studies.store.store import Store

SCORES = {
    "frozen": [0.1],
    "hira": [0.49, 0.55, 0.61],
    "static_gate": [0.71, 0.76, 0.79],
    "gatera": [0.7, 0.75, 0.8],
}


@pytest.fixture
def filled(store, plan):
    """A store in which every trial has a known score."""
    for variant, scores in SCORES.items():
        for trial, score in zip(plan.trials_of(variant), scores, strict=True):
            commit_result(store, trial, score)
    return store


@pytest.fixture
def record(filled, plan):
    return gather(filled, plan)


def test_the_rows_hold_means_differences_and_verdicts(record):
    table = build_table(record)
    assert [row.variant for row in table.rows] == list(SCORES)
    hira = table.row("hira")
    assert hira.average == pytest.approx(0.55)
    assert hira.spread == pytest.approx(0.06)
    # The differences are -0.21, -0.2 and -0.19.
    assert hira.comparison.difference.mean == pytest.approx(-0.2)
    assert hira.comparison.difference.sd == pytest.approx(0.01)
    assert hira.average_by_seed == pytest.approx({0: 0.49, 1: 0.55, 2: 0.61})
    assert hira.comparison.verdict == "resolved"
    static = table.row("static_gate").comparison
    assert static.difference.mean == pytest.approx(0.01 / 3)
    assert static.verdict == "not resolved"
    assert static.seeds_needed > 3
    assert table.row("gatera").comparison is None
    assert table.row("frozen").comparison is None


def test_the_markdown_says_what_the_numbers_are(record):
    text = markdown(build_table(record))
    assert text.startswith("# made_up at scale tiny\n")
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # By hand: t = 0.2 / (0.01 / sqrt 3) = 34.64, p = 0.00083 with 2 degrees; twice that by Holm.
    # The interval reaches 4.3027 times the error, 0.57735, to either side.
    verdict = "resolved (p = 0.002)"
    assert cells == ["hira", "3", "55.00 ± 6.00", "-20.00 [-22.48, -17.52]", verdict, "1.2494 %"]
    scores = section_of(text, "Scores by task")["hira"]
    assert list(scores.values()) == ["hira", *["55.00"] * 8]
    costs = section_of(text, "Knowledge, time and memory")["hira"]
    assert costs["trainable parameters"] == "1,234"
    assert (costs["time"], costs["of it scoring"]) == ("10.0 s", "2.0 s")
    assert (costs["peak memory"], costs["diagnosis"]) == ("256 MiB", "seeds_scatter")
    rests_on = section_of(text, "Differences")["hira"]
    assert (rests_on["p"], rests_on["p, Holm"]) == ("< 0.001", "0.002")
    assert "gatera (reference)" in text
    assert "| gatera | 0.250 | 50.00 | 12.50 | 0.375 | 0.250 | 0.250 |" in text
    assert "- code: frozen " in text
    # By hand: the larger spread of the two is that of 0.01, 0.01 and -0.01; at three seeds 80 %
    # power takes 3.264 of it.
    found = re.search(r"one of (\d+\.\d\d) points is found with 80 % power", text)
    assert float(found[1]) == pytest.approx(100 * 3.264 * 0.0115470, abs=0.005)
    assert "- as `gatera` has them; other rows differ in what is named below" in text
    assert "dtype float32, entropy_weight 0.01, " in text
    assert ", learning_rate 0.01, loss_mask answer, max_steps 80, " in text
    assert "- hira: adapter.gate = none" in text
    assert "- test items: world_truth 1000, world_use 1000" in text


def test_what_a_clock_says_can_be_left_out(record):
    table = build_table(record)
    assert "10.0 s" in markdown(table)
    assert "10.0 s" not in markdown(table, measured=False)
    assert "seconds" in trials_csv_text(table)
    for text in (csv_text(table), trials_csv_text(table, measured=False)):
        assert "seconds" not in text
        assert "bytes" not in text


def cells_of(text, variant):
    """Return the numbers of a row of markdown or LaTeX, without what is marked up."""
    line = next(line for line in text.splitlines() if variant in line.replace("\\_", "_"))
    separator = " & " if line.endswith("\\\\") else "|"
    line = line.removesuffix("\\\\").strip("| ")
    for mark, plain in (("\\%", "%"), ("$\\pm$", "±"), ("$<$", "<"), ("---", "—"), ("\\_", "_")):
        line = line.replace(mark, plain)
    return [cell.strip() for cell in line.split(separator)]


def test_every_number_of_the_table_is_that_of_the_other_forms(record):
    table = build_table(dataclasses.replace(record, published="gatera_table5"))
    shown, typeset, by_task = markdown(table, measured=False), latex(table), latex_by_task(table)
    flat = {row["variant"]: row for row in csv.DictReader(io.StringIO(csv_text(table)))}
    for row in json_rows(table):
        name = row["variant"] + (" (reference)" if row["variant"] == record.reference else "")
        cells, csv_row = cells_of(shown, f"| {name} |"), flat[row["variant"]]
        assert cells_of(typeset, f"{name} &") == cells
        scores = list(section_of(shown, "Scores by task")[row["variant"]].values())
        assert cells_of(by_task, f"{row['variant']} &") == scores
        percents = [float(cell) for cell in scores[1:]]
        assert percents == [round(100 * score, 2) for score in row["scores"].values()]
        if row["difference"]:
            numbers = [row["difference"][name] for name in ("mean", "low", "high")]
            mean, low, high = (f"{100 * number:+.2f}" for number in numbers)
            assert cells[3] == f"{mean} [{low}, {high}]"
            stated = (csv_row[f"difference{end}"] for end in ("", "_low", "_high"))
            assert [float(cell) for cell in stated] == numbers
            comparison = table.row(row["variant"]).comparison
            assert row["difference"]["p"] == comparison.difference.p
            assert row["difference"]["adjusted_p"] == comparison.adjusted_p
            assert row["difference"]["seeds_needed"] == comparison.seeds_needed
            assert f"(p = {comparison.adjusted_p:.3f}" in cells[4]
        published = "—" if row["published"] is None else f"{100 * row['published']:.2f}"
        assert cells[6] == published


def test_every_figure_stands_once_beside_its_numbers_or_before_the_foot(record):
    names = ("differences", "accuracy", "learning_curves")
    figures = [f"figures/made_up.tiny.{name}.png" for name in names]
    text = markdown(build_table(record), figures=figures)
    places = [text.index(f"]({path})") for path in figures]
    assert [text.count(path) for path in figures] == [1, 1, 1]
    scores, further = text.index("## Scores by task"), text.index("## Further figures")
    assert text.index("## Findings") < places[0] < scores < places[1] < further < places[2]
    assert places[2] < text.index("## Settings")
    assert "Further figures" not in markdown(build_table(record), figures=figures[:2])
    assert "![" not in markdown(build_table(record))


def test_the_compact_table_is_narrow_and_stands_before_the_rest(record):
    text = markdown(build_table(dataclasses.replace(record, published="gatera_table5")))
    head, _, rest = text.partition("## Scores by task")
    table = [line for line in head.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(record.rows)
    assert max(map(len, table)) <= 110
    assert head.index("## Findings") < head.index(table[0])
    assert "## Knowledge, time and memory" in rest


def section_of(text, title):
    """Return the table of a section by its first column, each line by its header."""
    lines = text.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    header, _, *found = rows
    return {row[0]: dict(zip(header, row, strict=True)) for row in found}


def test_the_numbers_of_every_section_are_those_of_the_other_forms(record):
    table = build_table(dataclasses.replace(record, published="gatera_table5"))
    text = markdown(table)
    gates, paper = section_of(text, "Gates"), section_of(text, "Against the paper")
    assert set(gates) == {"static_gate", "gatera"}
    for row in json_rows(table)[1:]:
        name, known = row["variant"], row["published_comparison"]
        if name in gates:
            overall = row["gates"]["overall"]
            assert gates[name]["below 0.1"] == f"{100 * overall['share_below_0.1']:.2f}"
            assert gates[name]["entropy"] == f"{overall['entropy']:.3f}"
        shown = paper[name]
        assert shown["published (LLaMA-3-8B)"] == f"{100 * row['published']:.2f}"
        assert shown["measured"] == f"{100 * row['average']:.2f}"
        assert shown["difference"] == f"{100 * known['difference']:+.2f}"
        step = known["step"]
        assert shown["published step to gatera"] == ("—" if step is None else f"{100 * step:+.2f}")
        assert shown["trainable, ours"] == f"{100 * row['trainable_share']:.4f} %"
        by_seed = row["average_by_seed"]
        assert list(by_seed) == ["seed0", "seed1", "seed2"]
        assert sum(by_seed.values()) / 3 == pytest.approx(row["average"])


def test_gates_are_told_by_task_where_there_are_several(record):
    table = build_table(record)
    assert "## Gates by task" not in markdown(table)  # these results know of no tasks

    def with_tasks(result):
        if not result.gates:
            return result
        tasks = {
            task: {
                part: {"mean": (result.seed + 1) / 10 + n / 100} for part in ("prompt", "answer")
            }
            for n, task in enumerate(record.tasks)
        }
        return dataclasses.replace(result, gates={**result.gates, "tasks": tasks})

    rows = [
        dataclasses.replace(
            row,
            trials=tuple(
                dataclasses.replace(t, result=with_tasks(t.result)) if t.result else t
                for t in row.trials
            ),
        )
        for row in record.rows
    ]
    table = build_table(dataclasses.replace(record, rows=tuple(rows)))
    shown = section_of(markdown(table), "Gates by task")
    assert set(shown) == {"static_gate", "gatera"}
    means = [shown["gatera"][task] for task in record.tasks]
    assert means == [f"{0.2 + n / 100:.3f}" for n in range(len(record.tasks))]  # seeds 0, 1, 2


def test_all_forms_hold_the_same_numbers(record):
    table = build_table(record)
    rows = json_rows(table)
    read = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [row["variant"] for row in read] == [row["variant"] for row in rows]
    for flat, row in zip(read, rows, strict=True):
        assert float(flat["average"]) == row["average"]
        if row["difference"]:
            assert float(flat["difference_low"]) == row["difference"]["low"]
        percent = f"{100 * row['average']:.2f}"
        assert percent in markdown(table)
        assert percent in latex(table)
    json.dumps(rows, allow_nan=False)


def test_the_forest_plot_draws_the_tables_intervals(record):
    rows = [row for row in build_table(record).rows if row.comparison is not None]
    compared = {row.variant: row.comparison for row in rows}
    (axes,) = draw_differences(compared, "difference").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    for row in rows:
        d, place = row.comparison.difference, names.index(row.variant)
        drawn = [line.get_xdata() for line in axes.lines if set(line.get_ydata()) == {place}]
        assert sorted(x for xs in drawn for x in xs) == pytest.approx(
            sorted(100 * each for each in (d.low, d.mean, d.high))
        )


def test_latex_is_escaped_and_has_booktabs_rules(record):
    text = latex(build_table(record))
    assert r"static\_gate" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1


def test_a_missing_trial_is_a_dash_with_its_reason(store, plan):
    trial = plan.trials_of("hira")[0]
    for attempt in (1, 2):
        store.claim(trial.key, {}).release()
        log = 'File "/home/me/my work/model.py", line 3\n\nValueError: it broke\n'
        note_end(store, trial.key, attempt, "bug", "hira, seed 0: it broke", log)
    commit_result(store, plan.trials_of("gatera")[0], 0.5)
    text = markdown(build_table(gather(store, plan)))
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    assert line.startswith("| hira | 0/3 | — | — |")
    ends = 'its log ends: File "model.py", line 3 / ValueError: it broke'
    assert f"- hira, seed 0: failed: hira, seed 0: it broke ({ends})" in text
    assert "- hira, seed 1: has not run" in text
    typeset = latex(build_table(gather(store, plan)))
    assert r"{\footnotesize hira, seed 1: has not run.\par}" in typeset
    assert "hira & 0/3 & --- & ---" in typeset


def test_one_seed_gives_a_difference_and_no_test(store, plan):
    commit_result(store, plan.trials_of("hira")[0], 0.5)
    commit_result(store, plan.trials_of("gatera")[0], 0.75)
    text = markdown(build_table(gather(store, plan)))
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    assert "| hira | 1/3 | 50.00 | -25.00 [—] | none: one seed |" in line
    rests_on = section_of(text, "Differences")["hira"]
    assert rests_on["p of two runs, McNemar"] == "< 0.001"
    assert "One seed tests nothing: -25.00 to -25.00 points" in text
    assert "It says nothing of other seeds" in text


def test_stale_results_are_never_shown_as_current(filled, plan, monkeypatch):
    monkeypatch.setattr(
        "gatera.studies.store.staleness.scoring_code", lambda config: {"a.py": "new"}
    )
    text = markdown(build_table(gather(filled, plan)))
    assert "55.00" not in text
    assert "`run --retry stale` runs it again" in text


def test_results_that_were_made_differently_are_refused(store, plan, tmp_path):
    commit_result(store, plan.trials_of("hira")[0], 0.5)
    commit_result(store, plan.trials_of("gatera")[0], 0.75, versions={"torch": "2.12.0"})
    record = gather(store, plan)
    with pytest.raises(
        InputError, match=r"versions of training — .*2\.13\.0.*hira/seed0.*2\.12\.0.*gatera"
    ):
        write_report(record, tmp_path / "reports")
    assert not (tmp_path / "reports").exists()
    mixed = write_report(record, tmp_path / "reports", allow_mixed=True)
    assert "the rows were not made alike (versions of training)" in mixed.markdown


def test_what_a_row_declares_to_change_may_differ_and_nothing_else_may(store, study):
    rows = (Variant("all_tokens", {"train.loss_mask": "all"}), Variant("gatera"))
    stated = dataclasses.replace(study.study, variants=rows)
    plan = make_plan(dataclasses.replace(study, study=stated), Request())
    commit_result(store, plan.trials_of("all_tokens")[0], 0.5)
    commit_result(store, plan.trials_of("gatera")[0], 0.75)
    record = gather(store, plan)
    assert {result.parts["training"]["loss_mask"] for result in record.results} == {"all", "answer"}
    refuse_mixed(record)
    undeclared = dataclasses.replace(
        record, rows=tuple(dataclasses.replace(row, changes={}) for row in record.rows)
    )
    with pytest.raises(InputError, match=r"loss_mask of training — .*all: all_tokens/seed0"):
        refuse_mixed(undeclared)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("versions", {"torch": "2.12.0"}),
        ("device", "cuda"),
        ("processor", "AMX2"),
        ("dtype", "bfloat16"),
        ("threads", 8),
        ("loss_mask", "all"),
    ],
)
def test_every_compared_field_is_refused_where_it_differs(record, field, value):
    assert field in COMPARED
    *others, last = record.rows
    trial = last.trials[0]
    training = {**trial.result.parts["training"], field: value}
    provenance = {**trial.result.provenance, "training": training}
    changed = dataclasses.replace(trial.result, provenance=provenance)
    trials = (dataclasses.replace(trial, result=changed), *last.trials[1:])
    rows = (*others, dataclasses.replace(last, trials=trials))
    with pytest.raises(InputError, match=f"cannot stand in one table: {field} of .*gatera/seed0"):
        refuse_mixed(dataclasses.replace(record, rows=rows))
    # Settings that were chosen elsewhere are no better than seeds that ran there.
    tuning = TuningRecord(1, {}, results=(changed,))
    rows = (*others, dataclasses.replace(last, tuning=tuning))
    with pytest.raises(InputError, match=f"one table: {field} of .*gatera/tuning0"):
        refuse_mixed(dataclasses.replace(record, rows=rows))
    assert set(COMPARED) == {*("versions", "device", "processor", "dtype", "threads", "loss_mask")}


def test_rows_that_read_different_files_are_refused_unless_they_declare_it(store, plan):
    for variant, score, sha in (("hira", 0.5, "a"), ("gatera", 0.75, "b")):
        trial = plan.trials_of(variant)[0]
        identities = {**trial.identities, "sources": {"eval.knowledge": sha * 64}}
        commit_result(store, trial, score, scoring={"identities": identities})
    record = gather(store, plan)
    with pytest.raises(InputError, match=r"eval\.knowledge — a+: hira/seed0 \| b+: gatera/seed0"):
        refuse_mixed(record)
    text = markdown(build_table(record))
    assert f"files that settings name: eval.knowledge {'a' * 16} and {'b' * 16}" in text


def test_averages_and_verdicts_rest_on_the_studys_endpoint(store, plan):
    for variant, value in (("hira", -1.0), ("static_gate", -3.0), ("gatera", -2.0)):
        for trial in plan.trials_of(variant):
            finer = {f"test/finer/{task}": value - 0.1 * trial.seed for task in plan.tasks}
            commit_result(store, trial, 0.5, metrics=finer)
    table = build_table(gather(store, dataclasses.replace(plan, endpoint="finer")))
    assert table.row("hira").average == pytest.approx(-1.1)
    assert table.row("hira").scores[plan.tasks[0]] == pytest.approx(-1.1)
    assert table.row("static_gate").comparison.difference.mean == pytest.approx(-1.0)


def test_holm_decides_over_all_rows(store, plan):
    # Each alone has p = 0.029; both together 0.057.
    base = [0.5, 0.6, 0.7]
    for variant, sign in (("hira", 1), ("static_gate", -1), ("gatera", 0)):
        for place, trial in enumerate(plan.trials_of(variant)):
            shift = sign * (0.02 + (place - 1) * 0.006)
            commit_result(store, trial, base[place] + shift)
    table = build_table(gather(store, plan))
    for row in json_rows(table)[1:3]:
        assert row["difference"]["p"] == pytest.approx(0.0287, abs=0.0001)
        assert row["difference"]["adjusted_p"] == pytest.approx(2 * row["difference"]["p"])
        assert row["difference"]["verdict"] == "not resolved"
        # At least one more than there are, at the level that the strictest step has.
        assert row["difference"]["seeds_needed"] == 4
    text = markdown(table)
    assert "| not resolved (p = 0.057) |" in text
    assert section_of(text, "Differences")["hira"]["seeds to resolve"] == "about 4"


def test_seeds_that_diverged_leave_no_verdict_and_no_doubt_over_what_is_compared(store, plan):
    scores = {"hira": [0.86, 0.161, None], "static_gate": [0.3, 0.31, None], "gatera": [0.9, 0.2]}
    for variant, found in scores.items():
        for trial, score in zip(plan.trials_of(variant), [*found, 0.95][:3], strict=True):
            if score is not None:
                commit_result(store, trial, score)
                continue
            for attempt in (1, 2):
                store.claim(trial.key, {}).release()
                kind = "bug" if variant == "static_gate" else "not_finite"
                note_end(store, trial.key, attempt, kind, "it ended", "")
    table = build_table(gather(store, plan))
    text = markdown(table)
    hira = next(line for line in text.splitlines() if line.startswith("| hira |"))
    # Of the seeds that did not diverge alone it would be resolved: -0.04 and -0.039.
    assert "| 51.05 ± 49.43 | -3.95 [-4.59, -3.31] | none: seeds diverged |" in hira
    assert section_of(text, "Differences")["hira"]["seeds"] == "2/3"
    assert "- hira: no verdict, since seed 2 diverged in it or in gatera" in text
    assert table.row("hira").comparison.adjusted_p < 0.05
    static = next(line for line in text.splitlines() if line.startswith("| static_gate |"))
    assert "| not resolved (p = " in static
    assert section_of(text, "Differences")["static_gate"]["seeds"] == "2/3"
    assert "- static_gate: its difference is over seed 0, 1, which gatera has too" in text
    assert table.row("hira").comparison.verdict == "not resolved"


def test_differences_without_spread_are_shown_and_not_tested(store, plan):
    for variant, score in (("hira", 0.5), ("gatera", 0.75)):
        for trial in plan.trials_of(variant)[:2]:
            commit_result(store, trial, score)
    text = markdown(build_table(gather(store, plan)))
    assert "| -25.00 [—] | none: no spread |" in text
    assert "- No verdict on `hira`: -25.00 points over 2 seeds, without any spread." in text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("backbone", "weights_sha256"), "backbone of scoring — "),
        (("template",), "template of scoring — "),
        (("data", "world_kin", "test"), "data world_kin/test — "),
    ],
)
def test_results_of_other_data_backbones_or_templates_are_refused(store, plan, path, said):
    other = json.loads(json.dumps(plan.trials_of("gatera")[0].identities))
    place = other
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "0" * 64
    commit_result(store, plan.trials_of("hira")[0], 0.5)
    commit_result(store, plan.trials_of("gatera")[0], 0.75, identities=other)
    with pytest.raises(InputError, match=f"{said}.*hira/seed0.*{'0' * 64}.*gatera/seed0"):
        refuse_mixed(gather(store, plan))


def test_a_copied_store_gives_the_same_bytes(filled, plan, tmp_path):
    copy = shutil.copytree(filled.folder, tmp_path / "elsewhere" / "copy")
    files = []
    for place, store in enumerate((filled, Store(copy))):
        record = gather(store, plan)
        files.append(write_report(record, tmp_path / f"reports{place}").files)
    assert len(files[0]) == 8
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_a_study_file_that_changed_since_is_said_to_have(filled, plan):
    unchanged = gather(filled, plan, study_sha256=plan.study_sha256)
    changed = gather(filled, plan, study_sha256="0" * 64)
    assert "the study file has changed" not in markdown(build_table(unchanged))
    assert "- the study file has changed since `run`" in markdown(build_table(changed))


def test_predictions_that_are_not_the_results_own_are_not_used(filled, plan):
    trial = plan.trials_of("hira")[1]
    filled.predictions_path(trial.key, 1).write_bytes(b"other")
    record = gather(filled, plan)
    hira = record.rows[1]
    assert [t.result is None for t in hira.trials] == [False, True, False]
    text = markdown(build_table(record))
    assert "- hira, seed 1: has not run: its result or its predictions changed since" in text
    differences = item_differences([(hira, 1.0), (record.rows[-1], -1.0)], record.tasks)
    assert {len(of_task) for of_task in differences.values()} == {2}  # seeds 0 and 2 alone


def test_knowledge_kept_is_a_column_with_its_interval(store, plan):
    frozen = plan.trials_of("frozen")[0]
    commit_result(store, frozen, 0.1, metrics={"knowledge/loss": 1.25})
    for trial, loss in zip(plan.trials_of("gatera"), (1.5, 1.75, 1.4), strict=True):
        losses = {"knowledge/loss": loss, "knowledge/loss_before": 1.25}
        commit_result(store, trial, 0.5, metrics=losses)
    table = build_table(gather(store, plan))
    text = markdown(table)
    kept = section_of(text, "Knowledge, time and memory")["gatera"]
    # By hand: changes 0.25, 0.5, 0.15; mean 0.3, SD 0.1803, t(2) = 4.303.
    assert (kept["held-out loss"], kept["its change [95 %]"]) == (
        "1.550",
        "+0.300 [-0.148, +0.748]",
    )
    assert "starts from the frozen backbone's, 1.250 nats" in text
    row = json_rows(table)[-1]
    assert row["knowledge"]["loss"] == pytest.approx(1.55)
    assert row["knowledge"]["change"] == pytest.approx(0.3)
    assert row["knowledge"]["change_low"] == pytest.approx(-0.148, abs=1e-3)
    assert row["knowledge"]["change_high"] == pytest.approx(0.748, abs=1e-3)


def test_the_csv_of_trials_has_a_line_a_trial_and_a_number_a_cell(filled, plan):
    record = gather(filled, plan)
    rows = list(csv.DictReader(io.StringIO(trials_csv_text(build_table(record)))))
    assert [(row["variant"], int(row["seed"])) for row in rows] == [
        (row.variant, trial.seed) for row in record.rows for trial in row.trials
    ]
    words = {"variant", "state", "reason", "key"}
    numbers = re.compile(r"|-?[0-9.]+(?:e-?[0-9]+)?")
    for row, result in zip(rows, record.results, strict=True):
        for task in record.tasks:
            name = f"test/accuracy/{task}"
            assert float(row[name]) == result.metrics[name]
        assert int(row["trainable_parameters"]) == result.parameters["trainable"]
        for name, cell in row.items():
            assert name in words or numbers.fullmatch(cell), name
    gated = next(row for row in rows if row["variant"] == "gatera")
    entropy = record.rows[-1].results[0].gates["overall"]["entropy"]
    assert float(gated["gate/overall/entropy_nats"]) == entropy


def test_a_trial_without_a_result_has_its_state_and_reason_alone(record):
    last = record.rows[-1]
    trials = (*last.trials[:-1], TrialRecord(2, "failed", None, reason="out of memory"))
    rows = (*record.rows[:-1], dataclasses.replace(last, trials=trials))
    table = build_table(dataclasses.replace(record, rows=rows))
    row = list(csv.DictReader(io.StringIO(trials_csv_text(table))))[-1]
    assert {name: cell for name, cell in row.items() if cell} == {
        "variant": "gatera",
        "seed": "2",
        "state": "failed",
        "reason": "out of memory",
    }


def test_the_tuning_of_a_row_is_printed(record):
    name = "train.learning_rate"
    tuning = TuningRecord(
        12, {name: 0.0123456}, (name,), 40, pruned=3, diverged=2, searched={name: (1e-4, 0.0125)}
    )
    rows = (*record.rows[:-1], dataclasses.replace(record.rows[-1], tuning=tuning))
    table = build_table(dataclasses.replace(record, rows=rows))
    text = markdown(table)
    header = "| variant | tuning trials | steps a trial | searched | chosen | edges hit |"
    line = f"| gatera | 12 (3 pruned, 2 diverged) | 40 | {name} 0.0001 to 0.0125 | {name} = 0.0123"
    assert header in text
    assert f"{line} | {name} |" in text
    assert "Nothing was tuned" not in text
    assert json_rows(table)[-1]["tuning"]["chosen"] == {"train.learning_rate": 0.0123456}
    assert "**tuning_edge**" in text
    assert "## Tuning" not in markdown(build_table(record))


@pytest.mark.parametrize(("hira", "said"), [([0.49, 0.55, 0.61], False), ([0.05, 0.75, 0.8], True)])
def test_an_interval_beyond_what_can_be_is_said_to_fit_badly(store, plan, hira, said):
    for variant, scores in (SCORES | {"hira": hira}).items():
        for trial, score in zip(plan.trials_of(variant), scores, strict=True):
            commit_result(store, trial, score)
    table = build_table(gather(store, plan))
    assert (table.row("hira").comparison.difference.low < -1) == said
    assert ("No difference can be above 100 points" in markdown(table)) == said


def test_a_report_is_the_same_bytes_twice(record, tmp_path):
    first = write_report(record, tmp_path / "a").files
    second = write_report(record, tmp_path / "b").files
    assert [p.name for p in first] == [
        "made_up.tiny.md",
        "made_up.tiny.csv",
        "made_up.tiny.trials.csv",
        "made_up.tiny.tex",
        "made_up.tiny.tasks.tex",
        "made_up.tiny.differences.png",
        "made_up.tiny.accuracy.png",
        "made_up.tiny.cost.png",
    ]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_report_holds_no_local_path(record, tmp_path):
    written = write_report(record, tmp_path / "a")
    assert str(tmp_path) not in written.markdown


def test_the_published_column_is_headed_by_its_model(record):
    table = build_table(dataclasses.replace(record, published="gatera_table5"))
    text = markdown(table)
    assert ", Table 5, measured on LLaMA-3-8B.\n" in text.partition("| variant |")[0]
    line = next(line for line in text.splitlines() if line.startswith("| hira |"))
    assert "| 86.72 |" in line
    frozen = next(line for line in text.splitlines() if line.startswith("| frozen |"))
    assert "| — |" in frozen
    assert "It was measured on LLaMA-3-8B: beside it, this is no test." in text


def curved(record, name, values):
    """Return a record whose trained rows have these values of a setting of the adapter."""

    def placed(row, value):
        trials = tuple(
            dataclasses.replace(
                trial,
                result=dataclasses.replace(
                    trial.result,
                    config={**trial.result.config, "adapter": {**row_config(trial), name: value}},
                ),
            )
            for trial in row.trials
        )
        return dataclasses.replace(row, trials=trials)

    def row_config(trial):
        return trial.result.config["adapter"]

    trained = [row for row in record.rows if row.variant != "frozen"]
    rows = [placed(row, value) for row, value in zip(trained, values, strict=True)]
    frozen = [row for row in record.rows if row.variant == "frozen"]
    return dataclasses.replace(record, rows=(*frozen, *rows), curve=f"adapter.{name}")


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((2, 8, 64), "log"),
        ((0.0, 0.001, 1.0), "symlog"),  # a zero has its place at the foot
        ((0.1, 0.5, 0.9), "linear"),
        ((0.0, 0.5, 0.9), "linear"),
    ],
)
def test_a_curve_has_each_row_at_its_value_changed_or_not(record, tmp_path, values, scale):
    drawn = curved(record, "alpha", values)
    (axes,) = draw_curve(build_table(drawn), "adapter.alpha").axes
    assert sorted(x for line in axes.get_lines()[::3] for x in line.get_xdata()) == list(values)
    assert axes.get_xscale() == scale
    files = write_report(drawn, tmp_path).files
    assert (tmp_path / "figures" / "made_up.tiny.curve.png") in files


@pytest.mark.parametrize("scored", ["generate", "choice"])
def test_rows_that_were_tuned_by_other_answers_than_scored_say_so(record, scored):
    *others, row = record.rows

    def answered(trial):
        config = trial.result.config
        train = {**config["train"], "validation_method": "choice"}
        config = {**config, "train": train, "eval": {**config["eval"], "method": scored}}
        return dataclasses.replace(trial, result=dataclasses.replace(trial.result, config=config))

    trials = tuple(answered(trial) for trial in row.trials)
    row = dataclasses.replace(row, trials=trials, tuning=TuningRecord(1, {}))
    text = markdown(build_table(dataclasses.replace(record, rows=(*others, row))))
    said = "chosen on validation items answered by 'choice', and the table's items are answered by"
    assert text.count(said) == (scored == "generate")


def test_published_tables_name_variants_of_the_shipped_studies():
    from gatera.studies import catalog

    for entry in catalog.entries():
        study = catalog.load(entry.name).study
        if study.published is not None:
            names = {variant.name for variant in study.variants}
            assert TABLES[study.published].averages.keys() <= names


def test_hard_gates_say_what_share_of_the_tokens_was_skipped(store, plan):
    for trial in plan.trials:
        commit_result(store, trial, 0.5, gates={"share_skipped": 0.4375})
    table = build_table(gather(store, plan))
    assert section_of(markdown(table), "Gates")["gatera"]["skipped"] == "43.75"
    of_field, of_share = draw_curve(table, "adapter.gate_threshold").axes
    assert of_field.get_xlabel() == "adapter.gate_threshold"
    assert "skipped" in of_share.get_xlabel()
    places = [line.get_xdata() for line in of_share.get_lines()[::3]]
    assert 43.75 in [place for each in places for place in each]


def test_soft_gates_say_nothing_of_skipping(record):
    assert "skipped" not in markdown(build_table(record))
