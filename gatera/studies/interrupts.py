"""What Ctrl-C and a scheduler's SIGTERM do to a run: once, finish writing; twice, end now."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupts:
    """How often a run was asked to end."""

    count: int = 0

    @property
    def urgent(self) -> bool:
        """Whether it was asked a second time, so that it should wait for nothing."""
        return self.count > 1

    def outlast(self, end: Callable[[bool], None]) -> None:
        """Call `end(urgent)` until it returns: anew at each interrupt, raised once it is done."""
        interrupted = False
        while True:
            try:
                end(self.urgent)
                break
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt and count them; elsewhere than here, no more.

    Signals reach the main thread alone; in another one this only yields a count of 0.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.count += 1
        if not interrupts.urgent:
            print(
                "gatera: stopping; workers save a checkpoint (again: end at once)",
                file=sys.stderr,
                flush=True,
            )
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield interrupts


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block; in other threads they do not come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    try:
        with _handled_by(lambda number, frame: came.append(number)):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, before, strict=True):
            signal.signal(number, earlier)
