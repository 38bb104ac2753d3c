"""The notebook of the documentation runs; an interrupted one keeps what is done and says so."""

import re
import time
from html import unescape
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from processes import noted

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
CUT = {"seeds": 1, "variants": ["gatera"], "tracking_uri": "none"}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Kernels leave nothing behind elsewhere."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))


def shown_by(cell, kind):
    return [o["data"][kind] for o in cell["outputs"] if kind in o.get("data", {})]


def said_by(cell):
    return "".join(o["text"] for o in cell["outputs"] if o["output_type"] == "stream")


def test_the_notebook_of_the_documentation_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code.values())
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (plan,) = shown_by(code["plan"], "text/plain")
    assert re.search(r"hira +seeds 0..1 +165,888 trainable", plan)
    bar, report = shown_by(code["run"], "text/html")
    assert bar == '<progress max="5" value="5"></progress> 5 of 5 trials done'
    assert "<h3>ablation_table5 at scale tiny</h3>" in report
    findings = re.findall(r"^- (.*)", said_by(code["run"]), re.MULTILINE)
    assert findings
    text = unescape(re.sub(r"</?code>", "`", report))
    assert all(sentence in text for sentence in findings)
    assert shown_by(code["gates-figure"], "image/png")
    assert "2 left to run" in said_by(code["own"])
    assert "Warning" not in "".join(map(said_by, code.values()))
    assert list(tmp_path.glob("tmp*")) == []


def test_an_interrupted_notebook_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path))
    heard = []
    try:
        client.execute(f"import gatera.studies as gs\ngs.run('ablation_table5', **{CUT!r})")
        store = tmp_path / "gatera-store"
        deadline = time.monotonic() + 300
        while not list(store.glob("trials/*/attempts/1/metrics.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        manager.interrupt_kernel()
        while not heard or heard[-1]["content"].get("execution_state") != "idle":
            heard.append(client.get_iopub_msg(timeout=120))
        workers = noted(store)
        assert workers
        assert not any(Path(f"/proc/{each.split('/')[1]}").exists() for each in workers)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    (error,) = [message["content"] for message in heard if message["msg_type"] == "error"]
    assert error["ename"] == "KeyboardInterrupt"
    assert "everything finished is kept, and the same call goes on" in error["evalue"]
    assert len(error["traceback"]) < 10
    said = "".join(m["content"]["text"] for m in heard if m["msg_type"] == "stream")
    assert "gatera: stopping; workers save a checkpoint" in said
