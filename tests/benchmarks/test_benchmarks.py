"""The benchmarks run, and what they write is what they measured."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def step() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    import adapter_step

    return adapter_step


@pytest.fixture(scope="module")
def decode(step: ModuleType) -> ModuleType:
    import adapter_decode

    return adapter_decode


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(text: str) -> dict[str, list[str]]:
    lines = [cells(line) for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


def test_ratios_are_those_of_the_rounds(step: ModuleType) -> None:
    records = [
        step.Record("llama-like", "float32", "PEFT LoRA", [0.10, 0.20, 0.40], 2**20, None),
        step.Record("llama-like", "float32", "PEFT HiRA", [0.40, 0.50, 1.00], 9 * 2**20, None),
        step.Record("llama-like", "float32", "token+hira", [0.20, 0.45, 0.95], 2**20 + 2**19, None),
        step.Record("llama-like", "float32", "5 products alone", [0.20, 0.40, 0.60], None, None),
    ]
    text = step.render(records, "a machine")
    table = rows(text.split("### llama-like")[1])
    assert table["token+hira"] == [
        "450.0 [325.0, 700.0]",
        "2.25 [2.12, 2.31]",
        "0.90 [0.70, 0.93]",
        "1.50",
    ]
    assert table["PEFT HiRA"][2] == "1.00 [1.00, 1.00]"
    assert table["5 products alone"][2:] == ["0.60 [0.55, 0.70]", "–"]
    targets = text.split("### Targets")[1].split("###")[0]
    assert rows(targets)["token+hira: step"][3:] == ["0.90", "0.92", "yes", "0.60 (5)"]
    assert rows(targets)["token+hira: bytes"][3:] == ["1.50", "1.05", "**no**", "–"]
    assert "Measured on: a machine" in text


def test_a_gpu_has_peak_memory_and_tokens_a_second(step: ModuleType) -> None:
    record = step.Record("llama-3-8b", "bfloat16", "PEFT HiRA", [0.25], 2**20, 3 * 2**20, 0.125)
    text = step.render([record], "a machine")
    assert cells(
        "| method | step, ms | × PEFT HiRA | kept, MiB | kernels, ms | peak, MiB | tokens/s |"
    ) == cells(next(line for line in text.splitlines() if line.startswith("| method")))
    assert rows(text)["PEFT HiRA"] == ["250.00", "1.00", "1.00", "125.00", "3", "2048"]


def test_every_gate_and_update_is_measured_beside_pefts_methods(
    step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of every method at a small size; the bytes are counted for all five projections."""
    torch.manual_seed(0)
    size = step.Size(hidden=8, intermediate=12, key_value=4, tokens=16)
    monkeypatch.setitem(step.SIZES, "small", size)
    for dtype in ("float32", "bfloat16-autocast"):
        records = step.measure("small", dtype, step.ALL_METHODS, 2, torch.device("cpu"))
        bare = [f"{count} products alone" for count in (5, 4, 3)]
        assert [r.method for r in records] == [*step.ALL_METHODS, *bare]
        assert all(len(r.seconds) == 2 and min(r.seconds) > 0 for r in records)
        kept = {r.method: r.kept_bytes for r in records}
        inputs = 16 * (8 + 8 + 12) * (4 if dtype == "float32" else 2)  # of q, k, v; up; down
        logits = 16 * 5 * 4
        assert kept["token+hira"] == inputs + logits
        assert kept["none+hira"] == inputs
        assert min(kept["PEFT HiRA"], kept["PEFT LoRA"]) > inputs


@pytest.mark.parametrize("count", [5, 4, 3])
def test_products_alone_are_as_many_as_their_name_says(step: ModuleType, count: int) -> None:
    from bare_products import bare_step

    weights = {"up_proj": torch.randn(12, 8), "down_proj": torch.randn(8, 12)}
    inputs = {"up_proj": torch.randn(2, 3, 8), "down_proj": torch.randn(2, 3, 12)}
    run = bare_step(count, weights, inputs, [torch.randn(2, 3, 12), torch.randn(2, 3, 8)])
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == 2 * count * (2 * 6 * 8 * 12)


def test_running_writes_one_section_and_running_again_replaces_it(
    step: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = step.Size(hidden=8, intermediate=12, key_value=4, tokens=16)
    monkeypatch.setitem(step.SIZES, "smollm2-135m", size)
    report = tmp_path / "reports" / "adapter.md"
    options = ["--sizes", "smollm2-135m", "--dtypes", "float32", "--repetitions", "1"]
    for methods in ("PEFT HiRA,token+hira", "PEFT HiRA,static+hira"):
        step.main([*options, "--methods", methods, "--report", str(report)])
    text = report.read_text(encoding="utf-8")
    assert text.startswith("# Speed and memory")
    assert text.count("## One training step") == 1
    assert "static+hira" in rows(text)
    assert "token+hira" not in rows(text)


def test_unknown_methods_are_refused_with_the_known_ones(
    step: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        step.main(["--methods", "token+hira,token+hirra"])
    message = capsys.readouterr().err
    assert "unknown: token+hirra; choose from: PEFT LoRA, PEFT DoRA, PEFT HiRA" in message


def test_decoding_is_measured_and_written(
    decode: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = decode.Size(hidden=8, intermediate=12, key_value=4, tokens=16)
    monkeypatch.setitem(decode.SIZES, "llama-3-8b", size)
    report = tmp_path / "adapter.md"
    options = ["--repetitions", "3", "--tokens", "40", "--dtypes", "float32"]
    decode.main([*options, "--report", str(report)])
    table = rows(report.read_text(encoding="utf-8"))
    assert set(table) >= {
        decode.BARE,
        decode.TWO_WEIGHTS,
        decode.CACHED,
        decode.REBUILT,
        "PEFT LoRA",
        "PEFT HiRA",
    }
    assert table[decode.BARE][3] == "1.00 [1.00, 1.00]"


def test_decoding_ratios_are_those_of_the_rounds(decode: ModuleType) -> None:
    size = decode.Size(hidden=8, intermediate=12, key_value=4, tokens=16)
    decoding = [
        decode.Record("float32", decode.BARE, [0.010, 0.020, 0.010]),
        decode.Record("float32", decode.CACHED, [0.020, 0.044, 0.023], 0.0125),
        decode.Record("float32", decode.REBUILT, [0.100, 0.440, 0.230]),
    ]
    skipping = [
        decode.Record("float32", decode.UNSKIPPED, [2.0]),
        decode.Record("float32", decode.SKIPPED, [1.6]),
    ]
    table = rows(decode.render(decoding, skipping, size, "a machine"))
    assert table[decode.CACHED] == [
        "float32",
        "23.000 [21.500, 33.500]",
        "12.500",
        "2.20 [2.10, 2.25]",
        "10.0 [7.5, 10.0]",
        "yes, yes",
    ]
    assert table[decode.SKIPPED] == ["float32", "1600", "0.80", "**no**"]


def test_the_closed_share_of_gates_lies_below_the_threshold(decode: ModuleType) -> None:
    size = decode.Size(hidden=8, intermediate=12, key_value=4, tokens=16)
    precision = decode.PRECISIONS["float32"]
    weights = decode.frozen_weights(size, ("up_proj",), torch.float32, torch.device("cpu"))
    layer = decode.adapted_layers("token+hira", weights, precision)["up_proj"]
    x = torch.randn(1, 1000, 8)
    decode._close_gates(layer, x, precision)
    logit = layer.gatera_gate["default"](x)
    assert int((logit < 0).sum()) == 700


@pytest.fixture(scope="module")
def whole(step: ModuleType) -> ModuleType:
    import adapter_model

    return adapter_model


def test_all_methods_share_one_models_frozen_weights(whole: ModuleType) -> None:
    config, precision = whole.MODELS["small"], whole.PRECISIONS["float32"]
    base = whole.random_model(config, precision.base, torch.device("cpu"))
    models = [whole.adapted(base, method, precision) for method in whole.METHODS]
    frozen = {p.data_ptr() for p in base.parameters()}
    for model in models:
        found = {p.data_ptr() for p in model.parameters() if not p.requires_grad}
        assert found == frozen
    counts = [whole.trained_parameters(model) for model in models]
    inputs = 3 * 64 + 64 + 160  # of the gates of q, k, v, up and down in one block
    assert counts[3] - counts[2] == 2 * (inputs + 5)
    assert counts[0] == counts[1] == counts[2]


def test_a_whole_models_step_is_reported_for_each_type(whole: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "adapter.md"
    options = "--model small --device cpu --repetitions 1 --sequences 2 --tokens 8"
    whole.main([*options.split(), "--report", str(report)])
    text = report.read_text(encoding="utf-8")
    assert "2 sequences of 8 tokens" in text
    for dtype in ("bfloat16", "bfloat16-default"):
        table = rows(text.split(f"### {dtype}\n")[1].split("###")[0])
        assert set(table) >= set(whole.METHODS)
        assert table["PEFT HiRA"][3] == "1.00"
        assert table["token+hira"][4] == "–"  # a processor launches no kernels


def test_tokens_a_second_memory_and_share_of_the_peak(whole: ModuleType) -> None:
    records = [
        whole.Record("PEFT LoRA", 2048, 1_500_000, [0.2, 0.1, 0.4], 2**31, 0.05, 6 * 10**13),
        whole.Record("token+hira", 2048, 1_700_000, [0.3, 0.3, 0.4], 2**30, 0.15, 6 * 10**13),
        whole.Record("PEFT HiRA", 2048, 0, [], None, None, None, "OutOfMemoryError: no room"),
    ]
    text = whole.render({"bfloat16": records}, "A model.", "a machine", 1e15)
    assert rows(text)["token+hira"] == [
        "1.70",
        "300.0 [300.0, 350.0]",
        "1.50 [1.25, 2.25]",
        "–",
        "150.0",
        "6827",
        "1.00",
        "20.0%",
    ]
    assert rows(text)["PEFT HiRA"] == ["–"] * 8
    assert "PEFT HiRA failed: OutOfMemoryError: no room" in text
    targets = rows(text.split("### Targets")[1].split("###")[0])
    assert targets["token+hira: peak"] == ["PEFT LoRA", "bfloat16", "0.50", "1.05", "1.00", "yes"]
    assert targets["token+hira: step"] == ["PEFT HiRA", "bfloat16", "–", "1.00", "0.85", "–"]
    unknown = rows(whole.render({"bfloat16": records}, "A model.", "a machine"))
    assert unknown["token+hira"][-1] == "–"


def test_a_steps_operations_are_those_that_torch_counts(whole: ModuleType) -> None:
    """With full instead of causal attention, as torch's own matrix products compute it."""
    config = copy.deepcopy(whole.MODELS["small"])
    config._attn_implementation = "eager"
    model = whole.random_model(config, torch.float32, torch.device("cpu"))
    embedded = torch.randn(3, 5, config.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded, use_cache=False).logits.sum().backward()
    other_half = 6 * 3 * 5**2 * config.hidden_size * config.num_hidden_layers
    counted = counter.get_total_flops()  # positions are multiplied into angles too, a little
    assert counted - other_half == pytest.approx(whole.step_flops(model, (3, 5)), rel=1e-3)


@pytest.mark.parametrize(("seconds", "holds"), [([0.2, 0.1, 0.8], "yes"), ([0.3], "**no**")])
def test_a_whole_models_targets_hold_or_not(
    whole: ModuleType, seconds: list[float], holds: str
) -> None:
    peer = [0.2, 0.2, 0.8][: len(seconds)]
    records = [
        whole.Record("PEFT HiRA", 8, 1, peer, None, None),
        whole.Record("token+hira", 8, 1, seconds, None, None),
    ]
    targets = whole.render({"bfloat16": records}, "", "").split("### Targets")[1].split("###")[0]
    assert rows(targets)["token+hira: step"][-1] == holds


def test_a_method_whose_step_fails_leaves_the_others_measured(
    whole: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = whole.adapted

    def broken(base: Any, method: str, precision: Any) -> Any:
        if method == "PEFT HiRA":
            raise RuntimeError("no\nroom")
        return adapted(base, method, precision)

    monkeypatch.setattr(whole, "adapted", broken)
    cpu, precision = torch.device("cpu"), whole.PRECISIONS["float32"]
    base = whole.random_model(whole.MODELS["small"], torch.float32, cpu)
    methods = ("PEFT LoRA", "PEFT HiRA", "token+hira")
    seen = list(whole.measure(base, methods, precision, (1, 4), 2, cpu))
    assert [len(records) for _, records in seen[:3]] == [1, 2, 3]
    lora, hira, ours = seen[-1][1]
    assert len(lora.seconds) == len(ours.seconds) == 2
    assert (hira.seconds, hira.failed) == ([], "RuntimeError: no room")


@pytest.fixture(scope="module")
def gpu(step: ModuleType) -> ModuleType:
    import gpu

    return gpu


@pytest.fixture(scope="module")
def parts(step: ModuleType) -> ModuleType:
    import parts

    return parts


def small_setting(gpu: ModuleType) -> Any:
    return gpu.Setting(gpu.SMALL, torch.device("cpu"), "a machine", time.monotonic() + 60)


def sections(report: Path) -> list[str]:
    lines = report.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("## ")]


def test_a_part_measured_in_its_own_process_is_in_the_report(
    gpu: ModuleType, tmp_path: Path
) -> None:
    report = tmp_path / "gpu.md"
    options = ["--device", "cpu", "--small", "--commit", "abc1234", "--out", str(report)]
    assert gpu.main([*options, "--only", "decoding"]) == 0
    text = report.read_text(encoding="utf-8")
    assert text.startswith("# Measured on one GPU\n")
    assert [line.split(":")[1].split()[0] for line in sections(report)] == ["CPU"]
    assert "commit abc1234; 20" in text
    assert rows(text)["token+hira, cached"][0] in ("bfloat16", "float32")
    assert "Under way" not in text
    assert "Ended early" not in text


def test_a_whole_models_small_part(gpu: ModuleType) -> None:
    measured = list(gpu.measure_model(small_setting(gpu)))
    assert [said for said, _ in measured[:6]] == [
        "bfloat16, memory of PEFT LoRA",
        "bfloat16, memory of PEFT HiRA",
        "bfloat16, memory of none+hira",
        "bfloat16, memory of token+hira",
        "bfloat16, memory of token+lora",
        "bfloat16, round 1",
    ]
    targets = rows(measured[-1][1].split("### Targets")[1].split("###")[0])
    assert targets["token+lora: step"][-1] in ("yes", "**no**")


def test_the_scoring_and_a_plain_loop_give_the_same_texts(gpu: ModuleType) -> None:
    from gatera import backbones
    from gatera.tasks import load
    from gatera.tasks.mixture import Item

    tiny = backbones.load("tiny")
    items = [Item(task, each) for task in ("world_use", "world_kin") for each in load(task, "test")]
    items = items[94:99]  # of both tasks, prompts of several lengths
    ours = gpu._by_framework(tiny.model, tiny.tokenizer, items, 2)
    assert ours == gpu._by_plain_loop(tiny.model, tiny.tokenizer, items, 2)
    assert all(text for text, _ in ours)


def test_unequal_answers_are_counted_item_by_item(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [("a true b", "true"), ("false", "false"), ("?", None)] * 16
    plain = [("true", "true"), ("true", "true"), ("?", None)] * 16
    monkeypatch.setattr(gpu, "_by_framework", lambda *given: ours)
    monkeypatch.setattr(gpu, "_by_plain_loop", lambda *given: plain)
    last = list(gpu._evaluated(None, None, small_setting(gpu)))[-1]
    row = dict(zip(gpu._EVALUATED[1:], last, strict=True))
    assert (row["items"], row["with a keyword"]) == ("48", "32")
    assert (row["unequal answers"], row["unequal texts"]) == ("16", "32")


def test_trials_a_minute_and_memory_by_the_number_of_processes(gpu: ModuleType) -> None:
    from trials_at_once import AtOnce, render

    done = {
        1: [AtOnce(10.0, [10.0], 2**20, 2**30)],
        4: [
            AtOnce(20.0, [18.0, 19.0, 20.0, 20.0], 3 * 2**20, 2**31),
            AtOnce(30.0, [30.0] * 4, 2 * 2**20, 2**31),
        ],
    }
    text = render(done, {"train.max_steps": 2}, "a machine")
    assert "Settings: train.max_steps = 2." in text
    table = rows(text)
    assert table["1"] == ["1", "6.00", "1.00", "10.0", "1", "1.00"]
    assert table["4"] == ["2", "10.00 [9.00, 11.00]", "1.67", "25.0 [19.8, 30.0]", "3", "2.00"]


def test_a_short_trial_of_the_plan_is_trained(gpu: ModuleType, tmp_path: Path) -> None:
    from trials_at_once import SHORT, planned_trials, train

    trials = planned_trials(2, SHORT)
    assert [trial.seed for trial in trials] == [0, 1]
    train(trials[1], tmp_path)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_trials_at_once_have_processes_of_their_own(gpu: ModuleType) -> None:
    from trials_at_once import SHORT, measure

    ends = time.monotonic()  # so that the one round that there must be is the last
    measured = list(measure((1,), SHORT, 2, ends, torch.device("cpu")))
    assert [said for said, _ in measured] == ["1 at once, round 1"]
    (at_once,) = measured[-1][1][1]
    assert at_once.seconds >= at_once.each[0] > 0
    assert at_once.used_bytes is None


def tell(*events: dict[str, str], then: str = "") -> list[str]:
    """A command that tells these events and then runs a piece of Python."""
    lines = "".join(f"print({json.dumps(event)!r}, flush=True)\n" for event in events)
    return [sys.executable, "-c", lines + then]


ROUND_1 = {"said": "round 1", "text": "## A part: a card\n\n| 1 |\n"}
ROUND_2 = {"said": "round 2", "text": "## A part: a card\n\n| 1, 2 |\n"}


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("import os; os._exit(3)", "its process ended with status 3"),
        ("import os; os.kill(os.getpid(), 11)", "its process ended with status -11"),
        (
            "print('{\"said\"', end='', flush=True); import time; time.sleep(60)",
            "3 seconds were over",
        ),
    ],
)
def test_what_a_part_measured_stays_however_it_ends(
    parts: ModuleType, tmp_path: Path, then: str, reason: str
) -> None:
    report = tmp_path / "gpu.md"
    told = parts.events(tell(ROUND_1, ROUND_2, then=then), 3)
    assert parts.keep(told, report, "a", "# Title\n", "## A part: CUDA\n", 0.0)
    text = report.read_text(encoding="utf-8")
    assert "| 1, 2 |" in text
    assert f"Ended early: {'its ' if reason[0] == '3' else ''}{reason}. What stands here" in text
    assert sections(report) == ["## A part: a card"]


def test_a_section_is_in_the_report_before_the_next_measurement(
    parts: ModuleType, tmp_path: Path
) -> None:
    report, seen = tmp_path / "gpu.md", []

    def told() -> Iterator[dict[str, str]]:
        yield ROUND_1
        seen.append(report.read_text(encoding="utf-8"))
        yield ROUND_2

    assert not parts.keep(told(), report, "a", "# Title\n", "## A part: CUDA\n", 0.0)
    assert "| 1 |" in seen[0]
    assert parts.UNDER_WAY in seen[0]
    assert parts.UNDER_WAY not in report.read_text(encoding="utf-8")


def test_without_git_the_commit_is_a_dash_or_the_one_given(
    parts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import measuring

    def missing(*given: Any, **named: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(measuring.subprocess, "run", missing)
    cpu = torch.device("cpu")
    assert measuring.machine(cpu).endswith("; commit –.")
    assert measuring.machine(cpu, "abc1234").endswith("; commit abc1234.")


def test_an_error_is_told_after_what_was_measured(parts: ModuleType) -> None:
    def measure() -> Iterator[tuple[str, str]]:
        yield "round 1", "text"
        raise RuntimeError("CUDA error:\nan illegal access")

    assert list(parts.told(measure)) == [
        {"said": "round 1", "text": "text"},
        {"failed": "RuntimeError: CUDA error: an illegal access"},
    ]


def test_a_missing_package_is_one_line_and_no_failure(parts: ModuleType, tmp_path: Path) -> None:
    def measure() -> Iterator[tuple[str, str]]:
        import no_such_package.inner  # noqa: F401

        yield "", ""

    report = tmp_path / "gpu.md"
    told = parts.told(measure)
    assert not parts.keep(told, report, "a", "# Title\n", "## A part: CUDA\n", 0.0)
    line = "Not measured: the package no_such_package is missing here."
    assert line in report.read_text(encoding="utf-8").splitlines()


def test_a_module_of_our_own_that_is_missing_is_a_failure(parts: ModuleType) -> None:
    def measure() -> Iterator[tuple[str, str]]:
        import gatera.no_such_module  # noqa: F401

        yield "", ""

    (told,) = parts.told(measure)
    assert told["failed"].startswith("ModuleNotFoundError: No module named 'gatera.no_such_module'")


PART = """
import os, sys, time
sys.path.insert(0, {folder!r})
import parts

def measure():
    yield "round 1", "## A part: a card\\n\\n| 1 |\\n"
    with open({pid_file!r}, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(99)

parts.serve(measure)
"""
DRIVER = """
import sys
sys.path.insert(0, {folder!r})
import gpu, parts
gpu._command = lambda name, given: [sys.executable, "-c", {part!r}]
parts.end_on_signals()
sys.exit(gpu.main(["--device", "cpu", "--only", "decoding,trials", "--out", {report!r}]))
"""


@pytest.mark.parametrize(
    ("number", "note"),
    [
        (signal.SIGTERM, "Ended early: it was interrupted. What stands here was measured before."),
        (signal.SIGKILL, "*Under way: this was written while more was being measured.*"),
    ],
)
def test_a_signal_leaves_what_was_measured_and_ends_the_parts_process(
    gpu: ModuleType, tmp_path: Path, number: signal.Signals, note: str
) -> None:
    report, pid_file = tmp_path / "gpu.md", tmp_path / "pid"
    part = PART.format(folder=str(FOLDER), pid_file=str(pid_file))
    driver = DRIVER.format(folder=str(FOLDER), part=part, report=str(report))
    process = subprocess.Popen([sys.executable, "-c", driver])
    while not (pid_file.is_file() and pid_file.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == (128 + number if number == signal.SIGTERM else -number)
    text = report.read_text(encoding="utf-8")
    assert "| 1 |" in text
    assert note in text
    assert sections(report) == ["## A part: a card"]  # the next part was not begun
    while lives(int(pid_file.read_text())):  # until it has ended, or this test's time has
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Return whether a process has not ended yet, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--only decoding,modell", "no part 'modell'; choose from model, decoding, evaluation"),
        ("--device cpu --small", "are not for the committed report; give --out FILE."),
    ],
)
def test_options_of_no_use_are_one_message_and_status_2(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(options.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_note_that_nothing_was_measured_gives_way_to_what_is(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = tmp_path / "gpu.md"
    report.write_text(gpu.NOT_YET, encoding="utf-8")
    monkeypatch.setattr(gpu, "_command", lambda name, given: tell(ROUND_1))
    gpu.main(["--device", "cpu", "--only", "model", "--out", str(report)])
    assert "Not measured yet" not in report.read_text(encoding="utf-8")
    committed = gpu.REPORT.read_text(encoding="utf-8")
    assert committed == gpu.NOT_YET or "<!-- begin " in committed
