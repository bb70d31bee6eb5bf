"""Queue of tasks on a cluster: few in flight, and a second attempt, alone, if a worker died."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import icechunk

from qmri_lake.execution.dask_types import DaskClient, TaskFuture
from qmri_lake.execution.workers import POLL, WorkerCheck, await_workers, gpu_resources

__all__ = ["map_tasks"]

_log = logging.getLogger(__name__)

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_IN_FLIGHT = 2
"""Number of tasks submitted per worker thread: enough to keep the thread busy, few enough to limit
memory."""


class Forkable(Protocol):
    """An Icechunk session, or the part of it that is used here."""

    def fork(self) -> icechunk.ForkSession:
        """Return a fork that can be sent to another process."""


def map_tasks(
    work: Callable[[Any, TaskT], ResultT],
    base: Forkable | None,
    tasks: Sequence[TaskT],
    *,
    cluster: DaskClient | None,
    lost: Callable[[TaskT, BaseException], ResultT],
    gpu: bool = False,
) -> Iterator[ResultT]:
    """Yield ``work(fork, task)`` for each task, in the order of completion.

    Each task gets a fork of `base`, or None if `base` is None. Without a cluster, the tasks run in
    this process, one after another. On a cluster, the number of submitted tasks is limited, so that
    results and graphs do not accumulate. If a task has no result, because its worker died or the
    task could not be sent, ``lost(task, error)`` is yielded.
    """
    if cluster is None:
        for task in tasks:
            yield work(base and base.fork(), task)
        return
    from distributed import KilledWorker

    await_workers(cluster)
    resources = gpu_resources(cluster, gpu)
    check = WorkerCheck(cluster, resources)
    threads = sum(cluster.nthreads().values()) or 1
    waiting = iter(tasks)
    in_flight: dict[str, tuple[TaskFuture, TaskT]] = {}
    """Futures and tasks by key. The scheduler drops a task if its future is not referenced."""
    ended: SimpleQueue[str] = SimpleQueue()
    suspects: list[TaskT] = []

    def submit(task: TaskT) -> None:
        future = cluster.submit(work, base and base.fork(), task, pure=False, **resources)
        in_flight[future.key] = future, task
        future.add_done_callback(lambda done: ended.put(done.key))

    def next_ended() -> tuple[TaskFuture, TaskT]:
        check.start()
        while True:
            try:
                return in_flight.pop(ended.get(timeout=POLL))
            except Empty:
                check.check()

    def result(future: TaskFuture, task: TaskT) -> ResultT:
        error = future.exception() if future.status == "error" else None
        if error is not None:
            return lost(task, error)
        value: ResultT = future.result()
        return value

    for task in itertools.islice(waiting, _IN_FLIGHT * threads):
        submit(task)
    while in_flight:
        future, task = next_ended()
        if future.status == "error" and isinstance(future.exception(), KilledWorker):
            _log.warning("a worker died during a task; the task is tried again later, alone")
            suspects.append(task)
        else:
            yield result(future, task)
        future.release()
        for another in itertools.islice(waiting, 1):
            submit(another)
    # If a worker dies, Dask reports an error for all its queued tasks. Run one by one, only the
    # task that caused the death fails again.
    for task in suspects:
        submit(task)
        future, task = next_ended()
        yield result(future, task)
        future.release()
