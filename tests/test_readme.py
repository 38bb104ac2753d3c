"""Every command of the README is run, cut short where it is long."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from gatera.studies import interface

README = Path(__file__).parents[1] / "README.md"
CUT = ["--seeds", "1", "--set", "train.max_steps=2", "--set", "eval.limit=2"]
AS_KEYWORDS = {"seeds": 1, "set": CUT[3::2]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("sh")[1:] for line in block.splitlines()]


def test_the_first_block_holds_exactly_the_two_commands():
    assert blocks("sh")[0].splitlines() == [
        "pip install -c constraints.txt . && python -m gatera.studies run ablation_table5",
        "pip install tox && tox",
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder, with the study file of the README and a store that a short run made."""
    folder = tmp_path_factory.mktemp("user")
    study = next(block for block in blocks("python") if block.startswith("# my_study.py"))
    (folder / "my_study.py").write_text(study)
    first = blocks("sh")[0].splitlines()[0].partition(" && ")[2]
    call(shlex.split(first)[3:] + CUT, folder)
    return folder


def call(arguments: list[str], folder: Path, status: int = 0) -> str:
    command = [sys.executable, "-m", "gatera.studies", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command, folder, tmp_path):
    python, dash_m, module, verb, *arguments = shlex.split(command)
    assert [python, dash_m, module] == ["python", "-m", "gatera.studies"]
    if verb == "ui":
        pytest.skip("a server; test_the_ui_answers_on_localhost starts and stops it")
    if "--all" in arguments:
        pytest.skip("hours: test_every_study.py runs them all, cut short")
    if "small" in arguments:
        pytest.skip("needs the wheel of SmolLM2 and minutes: test_small_scale.py, marked slow")
    if verb == "run" or "ablation_table5" in arguments[:1]:
        if "--scale" not in arguments:
            arguments += CUT
        if verb == "export":
            arguments += ["--out", str(tmp_path / "adapter")]
    if verb == "merge":
        shutil.copytree(folder / "gatera-store", folder / arguments[1])
    # Without the paper's data a plan says what can be known, and that something is missing.
    said = call([verb, *arguments], folder, status=2 if "paper" in arguments else 0)
    assert said or verb == "sync"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    import torch

    from gatera import backbones

    backbone = backbones.load("tiny")
    ids = torch.arange(4, 18).reshape(2, 7)
    given = {
        "base_model": backbone.model,
        "batch": {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids},
    }
    code = next(block for block in blocks("python") if "get_peft_model" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), given)
    assert given["loss"].requires_grad
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_studies_from_python_run(folder, monkeypatch):
    code = next(block for block in blocks("python") if "import gatera.studies as gs" in block)
    run = functools.partial(interface.run, **AS_KEYWORDS)
    monkeypatch.setattr(interface, "run", run)
    monkeypatch.chdir(folder)
    given = {}
    exec(compile(code, "README.md", "exec"), given)
    assert given["report"].table["variant"].iloc[0] == "frozen"
    assert given["report"].findings


def test_the_ui_answers_on_localhost(folder):
    port = 5000 + os.getpid() % 1000
    command = [sys.executable, "-m", "gatera.studies", "ui", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        assert address in server.stderr.readline()
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(1)
        pytest.fail("MLflow's UI did not answer within three minutes")
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
