"""Workers of a cluster: their memory and GPUs, and an error if there is none or none is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil

from qmri_lake.errors import RunError
from qmri_lake.execution.dask_types import DaskClient, Worker

__all__ = ["POLL", "WorkerCheck", "await_workers", "gpu_resources", "memory_per_task"]

_GPU = "GPU"
"""Resource that workers with a GPU declare: `LocalCUDACluster(resources={"GPU": 1})`."""
_ARRIVAL = 3.0
"""Longest wait for the first worker [s]."""
_SCALING = 120.0
"""Longest wait [s] if workers have been requested, or if all workers have left during a run. A
cluster that scales needs time to start new workers."""
_CHECK_INTERVAL = 5.0
"""Interval between two counts of the workers while no task ends [s]."""
POLL = 0.2
"""Longest delay of the last message of a task after its result [s]."""


def memory_per_task(client: DaskClient | None) -> int:
    """Return the bytes that one task may use: a worker's limit per thread, or all free memory."""
    if client is None:
        return int(psutil.virtual_memory().available)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [w["memory_limit"] // max(w["nthreads"], 1) for w in workers if w["memory_limit"]]
    return int(min(limits, default=psutil.virtual_memory().available))


def await_workers(client: DaskClient) -> None:
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
        time.sleep(POLL)


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


def gpu_resources(client: DaskClient, gpu: bool) -> dict[str, object]:
    """Return the resources that a task requests: one GPU, if any worker declares one.

    The workers are queried, because they may run on other machines than this process. A task that
    requests a resource that no worker declares would wait forever. If no worker declares a GPU,
    tasks run on any worker.
    """
    return {"resources": {_GPU: 1}} if gpu and any(map(_has_gpu, _workers(client))) else {}


def _has_gpu(worker: Worker) -> bool:
    # A worker that declares half a GPU never gets a task that requests a whole GPU.
    return bool(worker["resources"].get(_GPU, 0) >= 1)


class WorkerCheck:
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
