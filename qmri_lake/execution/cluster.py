"""Execution of tasks: in this process, on a local cluster, or on any Dask cluster."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import icechunk
import psutil

from qmri_lake.core.devices import gpu_count
from qmri_lake.core.main_guard import check_main_guard
from qmri_lake.errors import RunError

__all__ = ["DaskClient", "cluster", "map_tasks", "map_with_messages", "memory_per_task", "running"]

_log = logging.getLogger(__name__)

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
Message = list[object] | dict[str, object] | str | float
"""Message of a running task, of the types that Dask's event log supports."""


class TaskFuture(Protocol):
    """The part of `distributed.Future` that is used here."""

    key: str
    status: str

    def result(self) -> Any:
        """Wait for the result, or raise the error of the task."""

    def exception(self) -> BaseException | None:
        """Wait for the end of the task, and return its error or None."""

    def done(self) -> bool:
        """Return whether the task has ended."""

    def cancel(self) -> None:
        """Cancel the task."""

    def release(self) -> None:
        """Drop the result."""

    def add_done_callback(self, fn: Callable[[TaskFuture], object]) -> None:
        """Call `fn` when the task ends."""


class Forkable(Protocol):
    """An Icechunk session, or the part of it that is used here."""

    def fork(self) -> icechunk.ForkSession:
        """Return a fork that can be sent to another process."""


class Scheduler(Protocol):
    """The address of a scheduler."""

    address: str


class DaskClient(Protocol):
    """The part of `distributed.Client` that is used here."""

    @property
    def cluster(self) -> object:
        """Cluster of the client; None if the client was created from an address."""

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler."""

    def scheduler_info(self, *, n_workers: int) -> Mapping[str, Mapping[str, Worker]]:
        """Return a mapping whose item ``"workers"`` contains the workers by address."""

    def nthreads(self) -> Mapping[str, int]:
        """Return the number of threads by worker."""

    def submit(self, fn: Callable[..., object], *args: object, **options: object) -> TaskFuture:
        """Submit a task."""

    def run(self, fn: Callable[..., object], *args: object, on_error: str = "raise") -> object:
        """Call a function on every worker."""

    def cancel(self, futures: Sequence[TaskFuture]) -> None:
        """Cancel tasks."""

    def subscribe_topic(self, topic: str, handler: Callable[[Any], object]) -> None:
        """Call `handler` with each event of a topic."""

    def unsubscribe_topic(self, topic: str) -> None:
        """End a subscription."""


Worker = Mapping[str, Any]
"""The scheduler's information about a worker."""

_DASHBOARD = "127.0.0.1:0"
"""Address of the dashboard: a free port that is open to this machine only. It is contained in
``client.dashboard_link``."""

_KEPT_MEMORY = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
"""Setting that lets workers keep freed memory. By default, workers return it to the operating
system immediately. Tasks that allocate new arrays for each exam then spend most of their time on
page faults: 1.9 CPU-seconds per synthetic knee instead of 0.6."""

_IN_FLIGHT = 2
"""Number of tasks submitted per worker thread: enough to keep the thread busy, few enough to limit
memory."""
_GPU = "GPU"
"""Resource that workers with a GPU declare: `LocalCUDACluster(resources={"GPU": 1})`."""
_ARRIVAL = 3.0
"""Longest wait for the first worker [s]."""
_SCALING = 120.0
"""Longest wait [s] if workers have been requested, or if all workers have left during a run. A
cluster that scales needs time to start new workers."""
_CHECK_INTERVAL = 5.0
"""Interval between two counts of the workers while no task ends [s]."""
_POLL = 0.2
"""Longest delay of the last message of a task after its result [s]."""


@contextlib.contextmanager
def cluster(which: object = "auto") -> Iterator[Any]:
    """Yield a Dask client. If this function starts a cluster, the cluster is closed at the end.

    Parameters
    ----------
    which : {"auto", "cpu", "gpu"}, address, or a Dask client or cluster
        ``"gpu"``: one worker per GPU that NVML finds (dask-cuda). ``"cpu"``: one single-threaded
        worker process per core. ``"auto"``: as ``"gpu"`` if there is a GPU, else as ``"cpu"``. A
        cluster at an address such as ``"tcp://node:8786"``, started by Slurm, Kubernetes or
        otherwise, is left running.

    Raises
    ------
    RunError
        If `which` is ``"gpu"`` on a machine without a GPU, or an address that does not answer. If a
        script starts a cluster outside of ``if __name__ == "__main__"``.
    """
    from distributed import Client, LocalCluster

    if not isinstance(which, str):
        if isinstance(which, Client):
            yield which
            return
        with Client(which) as client:
            yield client
        return
    if "://" in which:
        try:
            client = Client(which, timeout=10)
        except OSError as error:
            raise RunError(
                "no answer",
                expected="a running Dask scheduler",
                where=which,
                todo="Check the address.",
            ) from error
        with client:
            yield client
        return
    if which not in ("auto", "cpu", "gpu"):
        raise RunError(f"cluster {which!r}", expected="auto, cpu, gpu or tcp://host:port")
    if which == "gpu" and not gpu_count():
        raise RunError("no GPU", expected="a GPU that NVML finds", todo='Use cluster="cpu".')
    import dask

    check_main_guard("a local cluster")
    with dask.config.set(_KEPT_MEMORY):
        if which != "cpu" and gpu_count():
            from dask_cuda import LocalCUDACluster

            local = LocalCUDACluster(resources={"GPU": 1}, dashboard_address=_DASHBOARD)
        else:
            local = LocalCluster(
                n_workers=psutil.cpu_count(logical=True) or 1,
                threads_per_worker=1,
                dashboard_address=_DASHBOARD,
            )
    with local, Client(local) as client:
        client.run(_end_quickly)
        yield client
        _stop_heartbeats(client)


def _end_quickly() -> None:
    """Make this worker skip the shutdown of the interpreter.

    After an import of TensorFlow, the shutdown takes seconds; meanwhile, Dask would kill the worker
    and print a message. Exit functions that are registered later still run, since they run first.
    """
    atexit.register(os._exit, 0)


def _stop_heartbeats(client: DaskClient) -> None:
    """Stop the heartbeats of the workers before they are closed.

    A heartbeat that is being sent while the scheduler closes would print a traceback after a
    successful run.
    """

    def stop(dask_worker: Any) -> None:  # Dask passes the worker by this name
        dask_worker.periodic_callbacks["heartbeat"].stop()

    client.run(stop, on_error="ignore")  # a dead worker has no heartbeat


@contextlib.contextmanager
def running(which: object) -> Iterator[Any]:
    """Yield a client as `cluster` does, once it has workers; for None, yield None.

    Raises
    ------
    RunError
        As in `cluster`, or if no worker arrives in time.
    """
    if which is None:
        yield None
        return
    with cluster(which) as client:
        _await_workers(client)
        yield client


def memory_per_task(client: DaskClient | None) -> int:
    """Return the bytes that one task may use: a worker's limit per thread, or all free memory."""
    if client is None:
        return int(psutil.virtual_memory().available)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [w["memory_limit"] // max(w["nthreads"], 1) for w in workers if w["memory_limit"]]
    return int(min(limits, default=psutil.virtual_memory().available))


def _await_workers(client: DaskClient) -> None:
    """Wait for the first worker.

    Raises
    ------
    RunError
        If no worker arrived in time.
    """
    if _workers(client):
        return
    started, longest = time.monotonic(), _longest_wait(client)
    # An adaptive cluster starts workers only for waiting tasks.
    request = client.submit(_nothing, pure=False)
    while not _workers(client):
        if time.monotonic() - started > longest:
            request.cancel()
            raise _no_workers(client, f"no worker within {longest:g} s")
        time.sleep(_POLL)


def _nothing() -> None:
    """Do nothing: the task of this function makes an adaptive cluster start a worker."""


def _longest_wait(client: DaskClient) -> float:
    """Return the longest wait for the first worker [s]; it depends on pending requests."""
    cluster = client.cluster
    adapts = getattr(cluster, "_adaptive", None) is not None
    return _SCALING if adapts or getattr(cluster, "requested", None) else _ARRIVAL


def _no_workers(client: DaskClient, found: str) -> RunError:
    return RunError(
        found,
        expected="at least one worker for these tasks",
        where=client.scheduler.address,
        todo="Start workers, wait for them with client.wait_for_workers(1), and run again.",
    )


def _workers(client: DaskClient) -> list[Worker]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def _resources(client: DaskClient, gpu: bool) -> dict[str, object]:
    """Return the resources that a task requests: one GPU, if any worker declares one.

    The workers are queried, because they may run on other machines than this process. A task that
    requests a resource that no worker declares would wait forever. If no worker declares a GPU,
    tasks run on any worker.
    """
    return {"resources": {_GPU: 1}} if gpu and any(map(_has_gpu, _workers(client))) else {}


def _has_gpu(worker: Worker) -> bool:
    # A worker that declares half a GPU never gets a task that requests a whole GPU.
    return bool(worker["resources"].get(_GPU, 0) >= 1)


class _WorkerCheck:
    """Check that raises an error if a run would wait forever, because it has no worker left."""

    def __init__(self, client: DaskClient, resources: Mapping[str, object]) -> None:
        self._client = client
        self._suits: Callable[[Worker], bool] = _has_gpu if resources else bool
        self.start()

    def start(self) -> None:
        """Restart the clock at the beginning of a wait for a task."""
        self._alive = self._checked = time.monotonic()

    def check(self) -> None:
        """Count the workers, at most every `_CHECK_INTERVAL` seconds.

        Raises
        ------
        RunError
            If there has been no worker for `_SCALING` seconds.
        """
        now = time.monotonic()
        if now - self._checked < _CHECK_INTERVAL:
            return
        self._checked = now
        if any(map(self._suits, _workers(self._client))):
            self._alive = now
        elif now - self._alive > _SCALING:
            raise _no_workers(self._client, f"no worker left for {_SCALING:g} s")


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

    _await_workers(cluster)
    resources = _resources(cluster, gpu)
    check = _WorkerCheck(cluster, resources)
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
                return in_flight.pop(ended.get(timeout=_POLL))
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


def map_with_messages(
    work: Callable[[Callable[[Any], None], TaskT], ResultT],
    tasks: Sequence[TaskT],
    *,
    client: DaskClient,
    listen: Callable[[Any], None],
    gpu: bool = False,
) -> list[ResultT]:
    """Run ``work(send, task)`` for tasks that take hours; return the results in the same order.

    Messages that a task sends (lists, dicts, strings, numbers) are passed to `listen`, in this
    thread, while the tasks run. If a task fails, its error is raised after the other tasks have
    finished. If several fail, the first error is raised.
    """
    _await_workers(client)
    topic = f"qmri-lake-{uuid4().hex}"
    messages: SimpleQueue[Message] = SimpleQueue()
    client.subscribe_topic(topic, lambda event: messages.put(event[1]))
    resources = _resources(client, gpu)
    check = _WorkerCheck(client, resources)
    futures = [
        client.submit(_with_messages, work, topic, task, pure=False, **resources) for task in tasks
    ]
    try:
        while True:
            ended = all(future.done() for future in futures)
            try:
                listen(messages.get(timeout=_POLL))
            except Empty:
                if ended:
                    break
                check.check()
        return [future.result() for future in futures]
    finally:
        client.unsubscribe_topic(topic)
        client.cancel(futures)  # if this process is interrupted, some tasks still wait


def _with_messages(
    work: Callable[[Callable[[Message], None], TaskT], ResultT], topic: str, task: TaskT
) -> ResultT:
    from distributed import get_worker

    worker = get_worker()
    return work(lambda message: worker.log_event(topic, message), task)
