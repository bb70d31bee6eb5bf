"""Dask clusters: a local one that is started and closed here, or any other one."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import psutil

from qmri_lake.core.devices import gpu_count
from qmri_lake.core.main_guard import check_main_guard
from qmri_lake.errors import RunError
from qmri_lake.execution.dask_types import DaskClient
from qmri_lake.execution.workers import await_workers

__all__ = ["cluster", "running"]

_log = logging.getLogger(__name__)

_DASHBOARD = "127.0.0.1:0"
"""Address of the dashboard: a free port that is open to this machine only. It is contained in
``client.dashboard_link``."""

_KEPT_MEMORY = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
"""Setting that lets workers keep freed memory. By default, workers return it to the operating
system immediately. Tasks that allocate new arrays for each exam then spend most of their time on
page faults: 1.9 CPU-seconds per synthetic knee instead of 0.6."""


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
    finished = False
    try:
        with local, Client(local) as client:
            client.run(_end_quickly)
            yield client
            finished = True
            _stop_heartbeats(client)
    except TimeoutError:
        if not finished:
            raise
        # A worker that died is being restarted. All results have arrived.
        _log.warning("the workers of the local cluster did not end in time")


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
        await_workers(client)
        yield client
