"""Processes that the signals of a terminal do not reach, from their first instruction on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess

import pytest

from driftgraph.stream.processes import SHIELDED, start_shielded
from tests.waits import until


def sleeper() -> BaseProcess:
    return multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1,))


@pytest.mark.parametrize("number", SHIELDED)
def test_a_signal_of_the_terminal_while_it_loads_ends_no_process(number: signal.Signals) -> None:
    process = sleeper()
    start_shielded(process)
    assert process.pid is not None
    while process.is_alive():  # from its first instruction to its end
        os.kill(process.pid, number)
        time.sleep(0.01)
    process.join()
    assert process.exitcode == 0


def test_it_ends_when_it_is_told_to() -> None:
    process = sleeper()
    start_shielded(process)
    process.terminate()
    until(lambda: not process.is_alive())
    assert process.exitcode == -signal.SIGTERM


def test_the_process_that_starts_it_still_hears_them() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    process = sleeper()
    start_shielded(process)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    process.kill()
    process.join()
