"""Interrupts that come at the worst moment: while others are served, and while workers start."""

import os
import signal
import sys
import threading

import pytest

from gatera.studies.interrupts import Interrupts, held_back, interruptible
from gatera.studies.launch.local import LocalLauncher


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def test_each_interrupt_is_counted_and_said_once(capsys):
    with interruptible() as interrupts:
        for count in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                interrupt()
            assert (interrupts.count, interrupts.urgent) == (count, count == 2)
    assert capsys.readouterr().err.count("stopping") == 1


def test_what_outlasts_interrupts_is_called_until_it_returns():
    asked = []
    with interruptible() as interrupts:

        def end(urgent):
            asked.append(urgent)
            if len(asked) < 4:
                interrupt()

        with pytest.raises(KeyboardInterrupt):
            interrupts.outlast(end)
    assert asked == [False, False, True, True]
    assert interrupts.count == 3


def test_what_is_not_interrupted_returns():
    asked = []
    Interrupts(count=1).outlast(asked.append)
    assert asked == [False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_is_held_back_comes_at_the_end(number):
    counted = []

    def work(interrupts):
        with held_back():
            interrupt(number)
            counted.append(interrupts.count)

    with interruptible() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            work(interrupts)
        assert [*counted, interrupts.count] == [0, 1]


def test_threads_hold_nothing_back():
    done = []

    def work():
        with held_back(), interruptible() as interrupts:
            done.append(interrupts.count)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [0]


def test_an_interrupt_while_a_worker_starts_leaves_none_behind(tmp_path, monkeypatch):
    launcher = LocalLauncher(tmp_path)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]

    class Interrupted(list):
        def append(self, child):
            interrupt()
            super().append(child)

    monkeypatch.setattr(launcher, "_children", Interrupted())
    with interruptible(), pytest.raises(KeyboardInterrupt):
        launcher.start(1, sleep, gpus=0, cpus=1)
    (child,) = launcher._children
    launcher.stop([], at_once=True)
    assert child.returncode == -signal.SIGKILL
