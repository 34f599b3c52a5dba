"""Signals that ask to stop: one exception, at a moment that does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from numclip_runtime import signals
from numclip_runtime.console import Command, Stopped, exit_on_error, stop_signals
from numclip_runtime.posix import STOP_SIGNALS
from numclip_runtime.signals import signals_go_to, signals_held

ONE_BY_ONE = pytest.mark.parametrize("signum", STOP_SIGNALS, ids=lambda one: one.name)
pytestmark = pytest.mark.usefixtures("default_signals")


def handlers() -> list[object]:
    return [signal.getsignal(one) for one in STOP_SIGNALS]


@ONE_BY_ONE
def test_a_signal_raises_and_the_handlers_come_back(signum: signal.Signals) -> None:
    before = handlers()
    with pytest.raises(Stopped) as caught, stop_signals():
        signal.raise_signal(signum)
    assert (caught.value.signum, caught.value.exit_code) == (signum, 128 + signum)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert handlers() == before


@ONE_BY_ONE
def test_commands_exit_with_the_signals_code(
    signum: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_error():
        signal.raise_signal(signum)
    assert caught.value.code == 128 + signum
    words = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Hung up."}
    assert capsys.readouterr().err == f"{words[signum.name]}\n"


@pytest.mark.parametrize("error", [ImportError("half"), SystemExit(1), RuntimeError("broken")])
def test_a_library_that_turns_the_signal_into_another_end(error: BaseException) -> None:
    """Such as Lightning, which exits with 1, or an extension module that was half imported."""

    def import_heavy() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    with pytest.raises(SystemExit) as caught, exit_on_error():
        import_heavy()
    assert caught.value.code == 143


@ONE_BY_ONE
def test_ignored_signals_stay_ignored(signum: signal.Signals) -> None:
    signal.signal(signum, signal.SIG_IGN)  # nohup
    with stop_signals():
        signal.raise_signal(signum)
        assert signal.getsignal(signum) is signal.SIG_IGN


@ONE_BY_ONE
def test_handlers_of_others_stay(signum: signal.Signals) -> None:
    came: list[int] = []
    signal.signal(signum, lambda number, _: came.append(number))
    with stop_signals():
        signal.raise_signal(signum)
    assert came == [signum]


def test_another_thread_changes_nothing() -> None:
    seen: list[list[object]] = []

    def work() -> None:
        with stop_signals():
            seen.append(handlers())

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@ONE_BY_ONE
def test_the_inner_of_two_does_nothing(signum: signal.Signals) -> None:
    with stop_signals():
        outer = handlers()
        with stop_signals():
            assert handlers() == outer
        assert handlers() == outer
        with pytest.raises(Stopped):
            signal.raise_signal(signum)


@ONE_BY_ONE
def test_held_signals_wait_for_the_end_of_the_block(signum: signal.Signals) -> None:
    done: list[int] = []

    def work() -> None:
        with signals_held():
            done.append(1)
            with signals_held():  # the end of an inner block is not the end
                signal.raise_signal(signum)
            done.append(2)
        done.append(3)

    with pytest.raises(Stopped) as caught, stop_signals():
        work()
    assert (done, caught.value.signum) == ([1, 2], signum)


@pytest.mark.parametrize("place", ["name", "completion", "option", "callback"])
@ONE_BY_ONE
def test_click_does_not_speak_of_a_signal(
    signum: signal.Signals,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It prints "Aborted!" at a Ctrl-C, wherever it is at that moment."""

    def signal_at(here: str) -> Any:
        if here == place:
            signal.raise_signal(signum)
        return ""

    monkeypatch.setattr(click.core, "_detect_program_name", lambda: signal_at("name"))
    monkeypatch.setattr(Command, "_main_shell_completion", lambda *_, **__: signal_at("completion"))

    @click.command(cls=Command)
    @click.option("--at", callback=lambda *_: signal_at("option"))
    def command(at: str) -> None:
        signal_at("callback")

    with pytest.raises(SystemExit) as caught:
        command.main([])
    words = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Hung up."}
    assert (caught.value.code, capsys.readouterr().err) == (128 + signum, f"{words[signum.name]}\n")


def test_signals_of_one_moment_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` signals the process and then its group; a terminal that closes does so as well."""

    done: list[float] = []

    def twice(pause_s: float) -> None:
        with stop_signals(), signals_held():
            signal.raise_signal(signal.SIGTERM)
            time.sleep(pause_s)
            signal.raise_signal(signal.SIGTERM)
            done.append(pause_s)

    monkeypatch.setattr(signals, "SAME_REQUEST_S", 60.0)
    with pytest.raises(Stopped):
        twice(0)
    assert done == [0]
    monkeypatch.setattr(signals, "SAME_REQUEST_S", 0.01)
    with pytest.raises(Stopped):
        twice(0.02)
    assert done == [0], "the second one came through"


def test_a_signal_is_given_to_a_build_and_a_second_one_raises() -> None:
    came: list[int] = []
    with stop_signals():
        with signals_go_to(came.append):
            signal.raise_signal(signal.SIGINT)
            assert came == [signal.SIGINT]
            with pytest.raises(Stopped):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGINT]


def exit_code_of_child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(77)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.posix("forks")
def test_a_forked_child_ends_by_the_signal_itself() -> None:
    with stop_signals():
        code = exit_code_of_child(lambda: signal.raise_signal(signal.SIGTERM))
    assert code == -signal.SIGTERM


def test_held_signals_of_another_thread_are_not_held() -> None:
    """The exception comes in the main thread, and at once."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with signals_held():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    with stop_signals():
        other.start()
        inside.wait(10)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        leave.set()
        other.join()


@pytest.mark.posix("ends by a signal")
def test_ctrl_c_while_python_takes_itself_apart_is_quiet() -> None:
    code = """
import atexit, signal
from numclip_runtime.console import exit_on_error
with exit_on_error():
    atexit.register(signal.raise_signal, signal.SIGINT)  # as torch does its work
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("signum", STOP_SIGNALS, ids=lambda one: one.name)
def test_a_signal_where_python_ignores_exceptions(
    default_signals: None, capsys: pytest.CaptureFixture[str], signum: signal.Signals
) -> None:
    """Found: in a weak reference's callback during an import, the signal was lost."""

    class Released:
        def __del__(self) -> None:
            signal.raise_signal(signum)

    def released() -> None:
        Released()
        time.sleep(30)

    before = sys.unraisablehook
    with pytest.raises(Stopped) as caught, stop_signals():
        released()
    assert caught.value.signum == signum
    assert sys.unraisablehook is before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("signum", "word"), [("SIGINT", "Interrupted"), ("SIGTERM", "Terminated")])
def test_a_signal_while_a_command_is_imported(signum: str, word: str, tmp_path: Path) -> None:
    """Ctrl-C in the first moment, long before the command reads its options."""
    strike = f"import os, signal, time\nos.kill(os.getpid(), signal.{signum})\ntime.sleep(5)\n"
    (tmp_path / "slow.py").write_text(strike)
    code = "from numclip_runtime.console import entry_point; entry_point('slow')()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (128 + getattr(signal, signum), f"{word}.\n")


@pytest.mark.posix("SIGCHLD")
def test_a_child_that_the_signal_kills_is_not_news() -> None:
    """Found: torch's error about a loading process, raised while Python took itself apart."""
    code = """
import atexit, os, signal
from numclip_runtime.console import exit_on_error
def complain(*_):
    raise RuntimeError("DataLoader worker is killed by signal")
signal.signal(signal.SIGCHLD, complain)
atexit.register(lambda: os.kill(os.getpid(), signal.SIGCHLD))
with exit_on_error():
    signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "Terminated.\n")
