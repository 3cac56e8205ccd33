"""The first stop signal is remembered, a second Ctrl-C stops."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from puna.train.interrupt import Interrupt


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered_and_a_ctrl_c_after_it_interrupts(stop):
    with Interrupt() as interrupt:
        assert interrupt.received is None
        os.kill(os.getpid(), stop)
        assert interrupt.received == stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == stop


def test_a_second_sigterm_is_the_same_wish_again():
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.received == signal.SIGTERM


def test_what_was_there_before_is_put_back_even_after_an_error():
    before = [signal.getsignal(stop) for stop in (signal.SIGTERM, signal.SIGINT)]
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before[1]
    with pytest.raises(ZeroDivisionError), Interrupt():
        1 / 0  # noqa: B018
    assert [signal.getsignal(stop) for stop in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with Interrupt() as interrupt:
            seen.append((signal.getsignal(signal.SIGTERM) is before, interrupt.received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, None)]
