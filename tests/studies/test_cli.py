"""The command line from outside: messages, exit statuses, what it imports."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatera import cli, commands
from gatera.errors import InputError
from gatera.studies import catalog
from gatera.studies.store.store import Store


def gatera(*arguments, cwd, **environment):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gatera.studies", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def assert_refused(done, *said):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr


def test_help_and_list_load_nothing_heavy(tmp_path):
    program = (
        "import sys\n"
        "from gatera.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as end:\n    status = end.code\n"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'mlflow', 'optuna', 'peft'}\n"
        "print(status, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    for arguments in (["--help"], ["list"], ["run", "--help"], ["gates", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.strip().endswith("0 []")


def test_run_all_runs_every_study_and_ends_as_the_worst_did(monkeypatch, capsys):
    ran = []

    def run_study(options):
        ran.append((options.name, options.seeds, options.set))
        return 3 if options.name == "gate_init" else 0

    monkeypatch.setattr(commands, "run_study", run_study)
    changes = ["tuning.trials=2", "train.max_steps=3"]
    options = [part for each in changes for part in ("--set", each)]
    assert cli.main(["run", "--all", "--seeds", "1", *options]) == 3
    assert [name for name, _, _ in ran] == [entry.name for entry in catalog.entries()]
    for name, seeds, said in ran:
        tuned = catalog.load(name).study.tuning is not None
        assert (seeds, said) == (1, changes if tuned else changes[1:])
    assert f"study 1 of {len(ran)}: ablation_table5" in capsys.readouterr().err


def test_run_all_goes_on_after_a_study_that_could_not_end(monkeypatch, capsys):
    ran = []

    def run_study(options):
        ran.append(options.name)
        if options.name == "coverage_table4":
            raise InputError("every tuning trial of dora diverged")
        return 0

    monkeypatch.setattr(commands, "run_study", run_study)
    assert cli.main(["run", "--all"]) == 2
    assert ran == [entry.name for entry in catalog.entries()]
    said = capsys.readouterr().err
    assert "gatera: coverage_table4: every tuning trial of dora diverged\n" in said


def test_run_all_begins_no_study_where_one_cannot_be_run(monkeypatch, capsys):
    monkeypatch.setattr(commands, "run_study", lambda options: pytest.fail("one has begun"))
    assert cli.main(["run", "--all", "--set", "train.stps=3"]) == 2
    assert "no setting 'train.stps'" in capsys.readouterr().err
    assert cli.main(["run", "--all", "--variants", "hira"]) == 2
    assert "no variant 'hira'" in capsys.readouterr().err
    for wrong in (["run"], ["run", "ablation_table5", "--all"]):
        with pytest.raises(SystemExit):
            cli.main(wrong)


def test_list_names_the_shipped_studies_anywhere(tmp_path):
    done = gatera("list", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)
    assert {"ablation_table5", "coverage_table4", "rank_figure3"} <= {r["name"] for r in rows}
    for row in rows:
        assert set(row) == {"name", "title", "reproduces", "path"}
        assert Path(row["path"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "ablation_tabel5"], ["no study", "did you mean ablation_table5"]),
        (["run", "ablation_table5", "--set", "train.stps=3"], ["no setting 'train.stps'"]),
        (["run", "ablation_table5", "--variants", "hyra"], ["no variant 'hyra'", "hira"]),
        (["run", "ablation_table5", "--tasks", "boolkue"], ["unknown task 'boolkue'"]),
        (["run", "ablation_table5", "--set", "data.train_tasks=none"], ["unknown task 'none'"]),
        (["run", "broken.py"], ["broken.py, line 2"]),
        (["run", "ablation_table5", "--scale", "small", "--data-root", "nowhere"], ["nowhere"]),
        (["run", "ablation_table5", "--scale", "small", "--data-root", "empty"], ["boolq"]),
        (["run", "ablation_table5", "--scale", "huge"], ["invalid choice: 'huge'"]),
        (["run", "ablation_table5", "--seeds", "0"], ["--seeds: 0 is not a whole number"]),
        (
            ["run", "ablation_table5", "--set", 'adapter.target_modules=["w_proj"]'],
            ["w_proj", "q_proj"],
        ),
        (["run", "ablation_table5", "--store", "newer"], ["has format 3"]),
        (["status", "ablation_table5"], ["no store at gatera-store"]),
        (["report", "ablation_table5"], ["no store at gatera-store"]),
    ],
)
def test_what_cannot_be_used_is_one_message_and_changes_nothing(tmp_path, arguments, said):
    (tmp_path / "broken.py").write_text("x = 1\nSTUDY = (\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "format.json").write_text('{"format": 3}')
    before = sorted(tmp_path.rglob("*"))
    assert_refused(gatera(*arguments, cwd=tmp_path, GATERA_DATA_ROOT=""), *said)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        *(
            (option, value, f"{value} is not a whole number of at least 1")
            for option in ("--seeds", "--workers", "--workers-per-gpu", "--max-attempts")
            for value in ("-1", "0", "1.5", "three", "")
        ),
        *(
            ("--claim-timeout", value, f"{value} is not a number of seconds above 0")
            for value in ("0", "-1", "nan", "soon")
        ),
    ],
)
def test_a_number_that_cannot_be_used_is_named_with_what_is_expected(capsys, option, value, said):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "ablation_table5", option, value])
    assert f"error: argument {option}: {said}\n" in capsys.readouterr().err


def test_more_trials_than_a_plan_takes_are_refused_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = time.monotonic()
    for seeds in ("5001", "1000000", "1" + 20 * "0"):
        assert cli.main(["plan", "ablation_table5", "--seeds", seeds]) == 2
        count = f"{4 * int(seeds):,}"
        assert capsys.readouterr() == (
            "",
            f"gatera: {count} trials are more than a plan takes (20,000); ask for fewer seeds or "
            "rows.\n",
        )
    Store(tmp_path / "gatera-store", create=True)
    assert cli.main(["status", "ablation_table5", "--seeds", "1" + 20 * "0"]) == 2
    assert "no plan ablation_table5.tiny." in capsys.readouterr().err
    assert time.monotonic() - begun < 20


def test_a_malformed_record_is_named_by_file_and_number(tmp_path):
    for task in ("boolq", "ARC-Easy"):
        folder = tmp_path / "data" / "commonsense" / task
        folder.mkdir(parents=True)
        good = {"instruction": "i", "input": "", "output": "the correct answer is true"}
        records = [{**good, "answer": "true"}, {**good, "instruction": "j"}]
        for split in ("train", "test"):
            (folder / f"{split}.json").write_text(json.dumps(records))
    options = ["--scale", "small", "--tasks", "boolq", "--set", "data.train_tasks=boolq"]
    done = gatera("run", "ablation_table5", *options, "--data-root", "data", cwd=tmp_path)
    assert_refused(done, "boolq", "record 2", "answer")
    assert not (tmp_path / "gatera-store").exists()


@pytest.mark.parametrize(
    ("options", "variant", "percent"),
    [
        ([], "gatera", 0.7123),
        (["--set", "backbone.name=llama-2-7b", "--set", "adapter.r=16"], "hira", 0.4145),
    ],
)
def test_the_paper_scale_counts_the_published_parameters(tmp_path, options, variant, percent):
    arguments = ["--scale", "paper", "--variants", variant, *options, "--json"]
    done = gatera("plan", "ablation_table5", *arguments, cwd=tmp_path, GATERA_DATA_ROOT="")
    answer = json.loads(done.stdout)
    assert round(answer["variants"][variant]["trainable_percent"], 4) == percent
    assert list(tmp_path.iterdir()) == []


WITHOUT_DATA = ["plan", "ablation_table5", "--scale", "small", "--tasks", "boolq"]


def test_plan_shows_without_data_what_can_be_known(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATERA_DATA_ROOT", "")
    assert cli.main(WITHOUT_DATA) == 2
    shown, said = capsys.readouterr()
    for text in ("21 trials: 21 waiting", "6,635,520 trainable (4.7010 %)", "cost: not known"):
        assert text in shown
    assert "gatera: task boolq: no data root was given (--data-root or" in said


def test_plan_gives_no_key_where_data_are_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main([*WITHOUT_DATA, "--data-root", "empty", "--json"]) == 2
    printed, said = capsys.readouterr()
    for name in ("boolq/test.json", "boolq/train.json", "ARC-Easy/train.json"):
        assert f"empty/commonsense/{name}, which does not exist" in said
    answer = json.loads(printed)
    assert answer["missing"] == [line.removeprefix("gatera: ") for line in said.splitlines()]
    assert len(answer["trials"]) == 21
    for trial in answer["trials"]:
        assert trial["key"] is None
        assert (trial["training_key"] is None) == (trial["variant"] != "frozen")
        assert trial["state"] == "waiting"
    assert answer["variants"]["hira"]["trainable_parameters"] == 6_635_520
    assert answer["estimate"]["trials_left"] == 21


def test_plan_shows_trials_and_what_they_can_find(tmp_path):
    done = gatera("plan", "ablation_table5", cwd=tmp_path)
    assert done.returncode == 0
    assert "21 trials: 21 waiting" in done.stdout
    assert "static_gate" in done.stdout
    assert "with 5 seeds a difference of 1.83 points is found" in done.stdout
    assert "cost: not known" in done.stdout
