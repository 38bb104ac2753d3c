"""What the benchmarks share: interleaved timing, the machine's name, sections of a report."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import torch

REPORT = Path(__file__).resolve().parents[1] / "reports" / "benchmarks" / "adapter.md"
TITLE = "# Speed and memory of the adapter beside PEFT's methods\n"


def interleaved_seconds(
    steps: Mapping[str, Callable[[], None]], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Time every step once a round, in an order that turns from round to round.

    Whatever slows the machine for a while then slows all of them. One round before is not counted.

    Returns:
        Seconds by name, one for each round.
    """
    rounds = list(interleaved_rounds(steps, repetitions, device))
    return {name: [seconds[name] for seconds in rounds] for name in steps}


def interleaved_rounds(
    steps: Mapping[str, Callable[[], None]], repetitions: int, device: torch.device
) -> Iterator[dict[str, float]]:
    """Yield each round's seconds by name as soon as they are measured; see the function above."""
    names = list(steps)
    for name in names:
        _seconds(steps[name], device)
    for round_number in range(repetitions):
        turned = round_number % len(names)
        yield {name: _seconds(steps[name], device) for name in [*names[turned:], *names[:turned]]}


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_bytes(step: Callable[[], None], device: torch.device) -> int | None:
    """Bytes that a step allocates at its peak beyond what is there before; None on a CPU."""
    if device.type != "cuda":
        return None
    step()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def kernel_seconds(
    step: Callable[[], None], device: torch.device, repetitions: int = 3
) -> float | None:
    """Seconds of a step's work on the device itself; None on a CPU.

    What is left of the step's time passes while the device waits for the processor to launch.
    """
    if device.type != "cuda":
        return None
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(repetitions):
            step()
        torch.cuda.synchronize(device)
    kernels = [
        event
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return sum(event.self_device_time_total for event in kernels) / repetitions / 1e6


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Ratios of two steps, one for each round."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def spread(values: Sequence[float], digits: int, scale: float = 1.0) -> str:
    """The median and, of several values, the quartiles in brackets; a dash for none."""
    if not values:
        return "–"
    middle = f"{median(values) * scale:.{digits}f}"
    if len(values) < 2:
        return middle
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{middle} [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *rows))


def machine(device: torch.device, commit: str | None = None) -> str:
    """One paragraph: processor, threads, versions and commit (None: the one checked out)."""
    name = _processor()
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, driver {_driver()}"
    packages = ", ".join(
        f"{package} {version(package)}" for package in ("torch", "peft", "transformers")
    )
    return (
        f"{name}; {torch.get_num_threads()} thread(s), torch's CPU capability "
        f"{torch.backends.cpu.get_cpu_capability()}; Python {platform.python_version()}, "
        f"{packages}; commit {commit or _commit()}."
    )


def kind(device: torch.device) -> str:
    """The kind of machine that a section is of: matrix units change what a product costs."""
    if device.type == "cuda":
        return "CUDA"
    return "CPU with AMX" if "amx_bf16" in _processor() else "CPU without AMX"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "–"
    return found.stdout.split("\n")[0].strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in lines if line.count(":") == 1
    )
    name = fields.get("model name", platform.processor() or platform.machine())
    if not lines:
        return name
    # Names such as "Intel(R) Xeon(R) Processor" say little on virtual machines: add the numbers.
    extensions = [e for e in ("avx512f", "avx512_bf16", "amx_bf16") if e in fields["flags"].split()]
    return (
        f"{name} (family {fields['cpu family']}, model {fields['model']}, stepping "
        f"{fields['stepping']}; {', '.join(extensions) or 'no AVX-512'})"
    )


def _commit() -> str:
    """The checked-out commit, marked where the working tree differs from it; a dash without git."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "–"
    return found.stdout.strip()


def write_section(report: Path, name: str, text: str, title: str = TITLE) -> None:
    """Put `text` between the report's markers for `name`, in place of what stands there.

    The file is the old or the new one, whenever this is interrupted; `title` opens a new one.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    old = report.read_text(encoding="utf-8") if report.is_file() else title
    block = begin + text.rstrip("\n") + "\n" + end
    if begin in old:
        before, after = old.split(begin, 1)[0], old.split(end, 1)[1]
        new = before + block + after
    else:
        new = old + "\n" + block
    report.parent.mkdir(parents=True, exist_ok=True)
    temporary = report.with_suffix(".tmp")
    temporary.write_text(new, encoding="utf-8")
    os.replace(temporary, report)


def one_line(error: BaseException) -> str:
    """An error's type and words, as one line of a report."""
    words = " ".join(str(error).split())
    shown = words if len(words) <= 300 else f"{words[:300]} …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def progress(text: str) -> None:
    """Say on stderr how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)
