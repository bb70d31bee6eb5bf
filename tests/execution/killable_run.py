"""Runs in processes of their own, which tell what they are doing, and which a test may kill.

One warm server forks a process for each run: starting Python costs two CPU seconds, which is too
much for a hundred kills. The server never imports Icechunk, so nothing of it lives in it.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

SERVER = "from tests.execution.killable_run import serve; serve()"
ROOT = Path(__file__).parents[2]


# -- in the server, the run, and its workers --------------------------------------------------


def say(*event: Any) -> None:
    """Report an event: one line, written at once, to the output that workers inherit too."""
    os.write(1, (json.dumps(event) + "\n").encode())


def reporting_t2() -> Any:
    """Return the step t2 itself, telling when it begins and ends."""
    from qmri_lake.steps.t2 import t2

    @functools.wraps(t2.function)
    def reporting(msme, **parameters):
        say("task")
        gate = os.environ.get("GATE")
        if gate:  # blocks until the test opens the other end
            Path(gate).read_bytes()
        product = t2.function(msme, **parameters)
        say("computed")
        return product

    return changed(t2, function=reporting)


def serve() -> None:
    """Fork a process for each order on standard input; report its end."""
    import numpy as np

    # Once, before the forks. But not Icechunk, nor our modules that import it: Icechunk 2 starts
    # threads when it is imported, and a fork waits for them for ever.
    preloaded = os.environ.get("PRELOAD", "").split()
    for name in ("dask.array", "numba", "pandas", "psutil", "scipy", "xarray", "zarr", *preloaded):
        importlib.import_module(name)
    from qmri_lake.relaxometry import fit_mono_exponential

    fit_mono_exponential(np.ones((4, 2), np.float32), [10.0, 20.0, 30.0, 40.0])  # compiled once
    assert "icechunk" not in sys.modules
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            os.setsid()
            os._exit(_obey(json.loads(line)))
        say("process", process)
        say("exit", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _obey(order: dict[str, Any]) -> int:
    try:
        if "call" in order:
            module, _, name = order["call"].partition(":")
            getattr(importlib.import_module(module), name)(*order["arguments"])
        else:
            _run(**order)
    except BaseException as error:
        say("error", type(error).__name__, str(error), traceback.format_exc())
        return 1
    return 0


def _run(url: str, workers: int, gate: str, parameters: dict[str, Any], **options: Any) -> None:
    from contextlib import ExitStack

    from qmri_lake.execution.run import Committed, ExamDone, RunEnded
    from qmri_lake.lake import open_lake

    def report(event: Any) -> None:
        match event:
            case ExamDone():
                say("arrived", event.exam, event.state)
            case Committed():
                say("committed", event.snapshot, event.exams)
            case RunEnded():
                say("ended")

    if gate:
        os.environ["GATE"] = gate
    with ExitStack() as stack:
        cluster = None
        if workers:
            from distributed import Client, LocalCluster

            local = stack.enter_context(
                LocalCluster(workers, threads_per_worker=1, dashboard_address=None)
            )
            cluster = stack.enter_context(Client(local))
        open_lake(url).run(
            reporting_t2(), cluster=cluster, listeners=[report], **options, **parameters
        )


# -- in the test -----------------------------------------------------------------------------


@dataclass
class Process:
    """A run in a process, with all that it has said."""

    server: RunServer
    number: int
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    def listen(self, seconds: float = 60) -> Iterator[tuple[Any, ...]]:
        """Yield events as they come, until the process ends or `seconds` have passed."""
        end = time.monotonic() + seconds
        while (event := self.server.event(max(end - time.monotonic(), 0))) is not None:
            self.events.append(event)
            yield event
            if event[0] == "exit":
                return

    def wait_for(self, name: str, count: int = 1) -> bool:
        """Wait for the `count`-th event of that name; False when the process ends before it."""
        while self.names().count(name) < count:
            for event in self.listen():
                if event[0] in (name, "exit"):
                    break
            else:
                raise TimeoutError(f"no {name} in a minute, only {self.names()}")
            if event[0] == "exit" and name != "exit":
                return False
        return True

    def kill(self) -> None:
        """Kill it and its workers as `kill -9` does, and gather what it still had said."""
        os.killpg(self.number, signal.SIGKILL)
        self.wait_for("exit")


class RunServer:
    """A warm server of killable runs; one run at a time."""

    def __init__(self, *preloaded: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PRELOAD": " ".join(preloaded), "KERAS_BACKEND": "torch"},
            start_new_session=True,
        )
        self._buffer = b""

    def start(
        self,
        url: Path,
        *,
        workers: int = 0,
        gate: Path | str = "",
        commit_every: int = 2,
        **parameters: Any,
    ) -> Process:
        order = {
            "url": str(url),
            "workers": workers,
            "gate": str(gate),
            "commit_every": commit_every,
            "parameters": parameters,
        }
        return self._send(order)

    def call(self, function: str, *arguments: str) -> Process:
        """Start ``module:function`` with these arguments."""
        return self._send({"call": function, "arguments": arguments})

    def _send(self, order: dict[str, Any]) -> Process:
        self.process.stdin.write((json.dumps(order) + "\n").encode())
        self.process.stdin.flush()
        first = self.event(60)  # the child may speak before the server does
        early = []
        while first is not None and first[0] != "process":
            early.append(first)
            first = self.event(60)
        return Process(self, first[1], early)

    def event(self, seconds: float) -> tuple[Any, ...] | None:
        """Return the next event, or None when none comes in time."""
        while b"\n" not in self._buffer:
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return None
            said = os.read(self.process.stdout.fileno(), 65536)
            if not said:
                raise EOFError("the server of runs has ended")
            self._buffer += said
        line, _, self._buffer = self._buffer.partition(b"\n")
        return tuple(json.loads(line))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
