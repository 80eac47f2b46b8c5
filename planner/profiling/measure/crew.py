"""Helper processes on this machine that work in step: ranks of a collective, threads of a cipher."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from planner.profiling.measure.points import UnmeasurableError

__all__ = ["Crew"]

_START: Final = 120.0  # seconds until a process that imports torch must have answered
_END: Final = 3.0


class Crew:
    """Processes that answer questions, all of them the same one at the same time.

    Parameters
    ----------
    target
        What each runs: ``target(rank, size, ask, *arguments)``; ``ask(answer)`` hands the last answer in and waits for
        the next question, None for the end.
    size
        How many.
    arguments
        For the target.
    afterwards
        Called once the processes have ended.

    Raises
    ------
    UnmeasurableError
        If one of them does not start.
    """

    def __init__(
        self, target: Callable[..., None], size: int, *arguments: object, afterwards: Callable[[], object] | None = None
    ) -> None:
        self._afterwards = afterwards
        # Not forked: neither CUDA nor OpenMP survives that.
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection[Any, Any]] = []
        self._processes = []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(target, there, rank, size, arguments), daemon=True)
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)
        self._answers(_START)

    def ask(self, question: object, *, within: float = 120.0) -> list[Any]:
        """Ask all, and wait for all answers, in the order of the ranks.

        Raises
        ------
        UnmeasurableError
            If one of them fails or takes longer than `within` seconds; all are ended then.
        """
        for end in self._ends:
            end.send(question)
        return self._answers(within)

    def _answers(self, within: float) -> list[Any]:
        answers = []
        for rank, end in enumerate(self._ends):
            try:
                if not end.poll(within):
                    raise EOFError
                failed, answer = end.recv()
            except (EOFError, ConnectionError):
                self.close()
                raise UnmeasurableError(f"process {rank} ended or gave no answer in {within:g} s") from None
            if failed:
                self.close()
                raise UnmeasurableError(str(answer))
            answers.append(answer)
        return answers

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return bool(self._ends)

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            try:
                end.send(None)
            except (OSError, ValueError):
                continue
        for process in self._processes:
            process.join(_END)
            if process.is_alive():
                process.kill()
                process.join(_END)
        for end in self._ends:
            end.close()
        self._ends, self._processes = [], []
        if self._afterwards is not None:
            self._afterwards()


def _serve(
    target: Callable[..., None], there: Connection[Any, Any], rank: int, size: int, arguments: tuple[object, ...]
) -> None:
    """Body of a process: what goes wrong is an answer too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a run is interrupted

    def ask(answer: object) -> object:
        there.send((False, answer))
        return there.recv()

    try:
        target(rank, size, ask, *arguments)
    except EOFError:
        return  # the parent is gone
    except Exception as error:
        there.send((True, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
