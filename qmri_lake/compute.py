"""Where the work happens: this process, a local cluster, or any Dask cluster by its address."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import icechunk
import psutil
import xarray as xr

from qmri_lake.errors import RunError

__all__ = [
    "cluster",
    "gpu_count",
    "map_tasks",
    "map_telling",
    "memory_per_task",
    "one_exam_a_block",
    "running",
    "threads_of_worker",
]

_DASHBOARD = "127.0.0.1:0"
"""Any free port of this machine alone: ``client.dashboard_link`` says which."""

_KEPT_MEMORY = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
"""Dask has its workers give freed memory back at once. Tasks that take the arrays of one exam after
another would then spend more time on getting pages again than on their work: 1.9 CPU-seconds a
synthetic knee, not 0.6."""

_IN_FLIGHT = 2
"""Tasks submitted per worker thread: enough to keep it busy, few enough to bound memory."""
_PATIENCE = 0.2
"""Seconds within which what a task told last arrives after its result."""


def one_exam_a_block(array: xr.DataArray) -> xr.DataArray:
    """Chunk an array in memory, and join chunks inside an exam: kernels take whole exams."""
    chunks = {str(dim): -1 for dim in array.dims}
    if "exam" in chunks:
        if array.chunks is None or array["exam"].size == 0:
            chunks["exam"] = 1
        else:
            del chunks["exam"]
    return array.chunk(chunks)


def gpu_count() -> int:
    """Count the GPUs that NVML sees; 0 without NVML. What is importable says nothing."""
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


@contextlib.contextmanager
def cluster(which: str | Any = "auto") -> Iterator[Any]:
    """Yield a Dask client, and close what was started here afterwards.

    Parameters
    ----------
    which : {"auto", "cpu", "gpu"}, address, or a Dask client or cluster
        ``"auto"``: one worker a GPU when NVML sees any (dask-cuda), else ``"cpu"``: one
        single-threaded worker process a core. An address such as ``"tcp://node:8786"`` is used
        as it is, whatever started it (Slurm, Kubernetes ...), and left running.

    Raises
    ------
    RunError
        ``"gpu"`` on a machine without one, or an address that does not answer.
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
                "no answer", expected="a Dask scheduler", where=which, todo="Check the address."
            ) from error
        with client:
            yield client
        return
    if which not in ("auto", "cpu", "gpu"):
        raise RunError(f"cluster {which!r}", expected="auto, cpu, gpu or tcp://host:port")
    if which == "gpu" and not gpu_count():
        raise RunError("no GPU", expected="one that NVML sees", todo='Use cluster="cpu".')
    import dask

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
    """Spare this worker the interpreter's shutdown: after TensorFlow it takes seconds of CPU time.

    Dask kills it meanwhile, and says so on the terminal. What is registered later runs before.
    """
    atexit.register(os._exit, 0)


def _stop_heartbeats(client: Any) -> None:
    """Still the workers before they are closed.

    A heartbeat that is under way when the scheduler closes ends as a traceback on the terminal
    after work that went well.
    """

    def stop(dask_worker: Any) -> None:
        dask_worker.periodic_callbacks["heartbeat"].stop()

    client.run(stop, on_error="ignore")  # a worker that has died has none


@contextlib.contextmanager
def running(which: Any | None) -> Iterator[Any | None]:
    """Yield a client as `cluster` does, or None for "in this process"."""
    if which is None:
        yield None
        return
    with cluster(which) as client:
        yield client


def memory_per_task(client: Any | None) -> int:
    """Bytes that one task may use: a worker's limit per thread, or what this machine has free."""
    if client is None:
        return int(psutil.virtual_memory().available)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [w["memory_limit"] // max(w["nthreads"], 1) for w in workers if w["memory_limit"]]
    return int(min(limits, default=psutil.virtual_memory().available))


def map_tasks(
    work: Callable[[Any, Any], Any],
    base: icechunk.Session | None,
    tasks: Sequence[Any],
    *,
    cluster: Any | None,
    lost: Callable[[Any, BaseException], Any],
    gpu: bool = False,
) -> Iterator[Any]:
    """Yield ``work(fork, task)`` for each task, in the order in which they end.

    Each task gets a fork of `base`, or None where nothing is written to a lake. Without a cluster
    they run here, one after another. On one, a bounded number is in flight, so that neither results
    nor graphs pile up; a task that brings no result, because its worker died or it can't be sent,
    yields ``lost(task, error)``.
    """
    if cluster is None:
        for task in tasks:
            yield work(base and base.fork(), task)
        return
    from distributed import KilledWorker, as_completed

    threads = sum(cluster.nthreads().values()) or 1
    resources = _resources(gpu)
    waiting = iter(tasks)
    in_flight: dict[str, Any] = {}
    suspects = []

    def submit(task: Any) -> Any:
        future = cluster.submit(work, base and base.fork(), task, pure=False, **resources)
        in_flight[future.key] = task
        return future

    window = [submit(task) for task in itertools.islice(waiting, _IN_FLIGHT * threads)]
    # The loop of this client, which need not be the default one.
    arriving = as_completed(window, loop=cluster.loop)
    del window  # which would hold their results
    for future in arriving:
        task = in_flight.pop(future.key)
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            suspects.append(task)
        else:
            yield future.result() if error is None else lost(task, error)
        future.release()
        for following in waiting:
            arriving.add(submit(following))
            break
    # Whatever a dying worker had in its queue is blamed for its death: alone, the innocent pass.
    for task in suspects:
        future = submit(task)
        error = future.exception()
        yield future.result() if error is None else lost(task, error)
        future.release()


def _resources(gpu: bool) -> dict[str, Any]:
    """Return what a task asks of a worker: a GPU for itself, where there are any."""
    return {"resources": {"GPU": 1}} if gpu and gpu_count() else {}


def map_telling(
    work: Callable[[Callable[[Any], None], Any], Any],
    tasks: Sequence[Any],
    *,
    client: Any,
    listen: Callable[[Any], None],
    gpu: bool = False,
) -> list[Any]:
    """Return ``work(tell, task)`` of each task, of which each may take hours, in their order.

    Whatever a worker tells, of lists, dicts, strings and numbers, comes to `listen`, in this
    thread, while the others go on. Where a task fails, the others are finished first; then the
    first of the errors is raised.
    """
    topic = f"qmri-lake-{uuid4().hex}"
    told: SimpleQueue[Any] = SimpleQueue()
    client.subscribe_topic(topic, lambda event: told.put(event[1]))
    resources = _resources(gpu)
    futures = [
        client.submit(_telling, work, topic, task, pure=False, **resources) for task in tasks
    ]
    try:
        while True:
            ended = all(future.done() for future in futures)
            try:
                listen(told.get(timeout=_PATIENCE))
            except Empty:
                if ended:
                    break
        return [future.result() for future in futures]
    finally:
        client.unsubscribe_topic(topic)
        client.cancel(futures)  # what waits for a worker, when this one is interrupted


def _telling(work: Callable[[Callable[[Any], None], Any], Any], topic: str, task: Any) -> Any:
    from distributed import get_worker

    worker = get_worker()
    return work(lambda message: worker.log_event(topic, message), task)


def threads_of_worker() -> int | None:
    """Return the threads that the Dask worker of this process has, or None outside a worker.

    A library with a thread pool of its own takes all cores otherwise, beside the other workers.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # this is none
        return None
