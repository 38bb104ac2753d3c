"""Settings, scoring, provenance and gates, each alone."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gatera.errors import InputError
from gatera.settings import TrainSettings
from gatera.tasks.example import Example, content_hash
from gatera.tasks.mixture import Item
from gatera.training.evaluation import measures, scoring
from gatera.training.evaluation.scoring import Prediction
from gatera.training.optimization.checkpoints import Best
from gatera.training.optimization.rates import learning_rate_factor, total_steps
from gatera.training.provenance import machine


@pytest.fixture
def settings(make_trial: Any) -> TrainSettings:
    return TrainSettings(**make_trial().config["train"])


def test_the_rate_warms_up_then_falls_to_zero(settings: TrainSettings) -> None:
    linear = dataclasses.replace(settings, warmup_steps=4)
    factors = [learning_rate_factor(linear, step, 10) for step in range(11)]
    assert factors == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0]
    )
    cosine = dataclasses.replace(linear, schedule="cosine")
    assert learning_rate_factor(cosine, 7, 10) == pytest.approx(0.5)
    assert learning_rate_factor(cosine, 10, 10) == pytest.approx(0.0)
    constant = dataclasses.replace(linear, schedule="constant")
    assert [learning_rate_factor(constant, step, 10) for step in (3, 9)] == [1.0, 1.0]


def test_warm_up_is_a_tenth_of_the_steps_and_at_most_a_hundred(settings: TrainSettings) -> None:
    assert learning_rate_factor(settings, 0, 50) == pytest.approx(1 / 5)
    assert learning_rate_factor(settings, 0, 5000) == pytest.approx(1 / 100)


def test_steps_are_the_smaller_of_both_limits(settings: TrainSettings) -> None:
    assert total_steps(settings, steps_in_epoch=3) == 8
    assert total_steps(dataclasses.replace(settings, epochs=2), 3) == 6
    assert total_steps(dataclasses.replace(settings, max_steps=None, epochs=5), 3) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulation": 3}, "batch_size=8 cannot be split into train.accumulation=3"),
        ({"max_steps": None}, "train.max_steps and train.epochs are both null"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: TrainSettings, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(settings, **changes)


def test_better_is_more_accurate_then_less_loss_then_earlier() -> None:
    best = Best(4, 0.5, 1.0, {})
    assert Best(8, 0.6, 2.0, {}).is_better_than(best)
    assert Best(8, 0.5, 0.9, {}).is_better_than(best)
    assert not Best(8, 0.5, 1.0, {}).is_better_than(best)
    assert not Best(8, 0.4, 0.1, {}).is_better_than(best)
    assert best.is_better_than(None)


def items(count: int) -> list[Item]:
    return [Item("boolq", Example(f"q{n}", "", "it is true", "true")) for n in range(count)]


def test_a_cut_test_set_is_the_first_by_hash_in_file_order() -> None:
    all_items = items(30)
    chosen = scoring.first_by_hash(all_items, 7)
    hashes = sorted(content_hash(item.example) for item in all_items)
    assert {content_hash(all_items[place].example) for place in chosen} == set(hashes[:7])
    assert chosen == sorted(chosen)
    assert scoring.first_by_hash(all_items, None) == list(range(30))
    assert scoring.first_by_hash(all_items, 31) == list(range(30))


def test_outputs_without_keyword_count_as_wrong() -> None:
    predictions = [
        Prediction("boolq", 0, "", "true", "true", "true", True, 1.0, -0.1),
        Prediction("boolq", 1, "", "hm", None, "true", False, 0.0, -0.3),
        Prediction("boolq", 2, "", "false", "false", "true", False, 0.0, -0.8),
    ]
    assert scoring.mean_score(predictions) == pytest.approx(1 / 3)
    assert scoring.share_without_keyword(predictions) == pytest.approx(1 / 3)
    measured = measures.of_test(["boolq"], predictions, {})
    assert measured == {
        "test/accuracy/boolq": pytest.approx(1 / 3),
        "test/no_keyword/boolq": pytest.approx(1 / 3),
        "test/log_probability/boolq": pytest.approx(-0.4),
        "test/accuracy": pytest.approx(1 / 3),
        "test/log_probability": pytest.approx(-0.4),
    }
    reply = Prediction("convai2", 0, "", "hello there", "hello there", "hello you", None, 0.5, None)
    both = measures.of_test(["boolq", "convai2"], [*predictions, reply], {})
    assert both["test/rouge_l/convai2"] == both["test/rouge_l"] == 0.5
    assert both["test/accuracy"] == pytest.approx(1 / 3)
    corpora = measures.of_corpora(["boolq", "convai2"], [*predictions, reply])
    assert corpora.metrics["test/distinct_1/convai2"] == 1.0
    assert not [name for name in corpora.metrics if name.endswith("/boolq")]
    assert "sacrebleu" in corpora.notes["test/bleu/convai2"]
    assert "test/bert_f1/convai2" in corpora.metrics.keys() | corpora.notes.keys()
    unweighed = [dataclasses.replace(predictions[0], log_probability=None), *predictions[1:]]
    assert "test/log_probability/boolq" not in measures.of_test(["boolq"], unweighed, {})


def test_a_machine_says_what_it_computes_by() -> None:
    here = machine.Machine.here()
    assert here.device == ("cuda" if torch.cuda.is_available() else "cpu")
    same = machine.of_process({"a.py": "0"})
    assert here.differences(same) == []
    assert same["code"] == {"a.py": "0"}
    other = {
        **same,
        "versions": {**same["versions"], "transformers": "4.0"},
        "processor": "AVX2 of another kind",
    }
    version, processor = here.differences(other)
    assert version == f"transformers 4.0 → {same['versions']['transformers']}"
    assert processor == f"processor AVX2 of another kind → {here.processor}"


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx avx2 avx512f amx_tile", "AMX"),
        ("fpu avx avx2 avx512f", "AVX512"),
        ("fpu avx avx2", "AVX2"),
        ("fpu", platform.machine()),
    ],
)
def test_the_widest_instructions_name_a_processor(
    flags: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        monkeypatch.delenv(name, raising=False)
    text = f"processor : 0\nflags\t\t: {flags}\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert machine.cpu_capability() == found
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert machine.cpu_capability() == f"{found} ATEN_CPU_CAPABILITY=avx2"


def test_light_imports_load_no_torch() -> None:
    code = (
        "import sys, gatera.tasks, gatera.backbones, gatera.training;"
        "import gatera.training.provenance.machine;"
        "print(sorted({'torch', 'transformers', 'peft', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_codes_hash_is_taken_where_the_code_is_loaded() -> None:
    # A process that was forked from one that loaded it computes with that code, not with the files
    # as they are by then.
    program = (
        "import gatera.training.fitting; from gatera.training.provenance import code; "
        "print(code._package.cache_info().currsize)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "1"
