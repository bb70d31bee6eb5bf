"""Where the work happens: what a cluster that was started here leaves behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, RunError
from qmri_lake.execution import cluster as clusters
from qmri_lake.execution import workers as of_cluster
from qmri_lake.execution.task_messages import map_with_messages
from qmri_lake.execution.task_queue import map_tasks


@pytest.mark.slow
def test_cluster__stills_its_workers_before_it_closes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    beating: list[bool] = []

    def beats(dask_worker: Any) -> bool:
        return bool(dask_worker.periodic_callbacks["heartbeat"].is_running())

    stop = clusters._stop_heartbeats

    def watched(client: Any) -> None:
        beating.extend(client.run(beats).values())
        stop(client)
        beating.extend(client.run(beats).values())

    monkeypatch.setattr(clusters, "_stop_heartbeats", watched)
    with ql.cluster("cpu") as client:
        workers = len(client.nthreads())
        assert client.submit(sum, [1, 2]).result() == 3
    assert beating == [True] * workers + [False] * workers
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_cluster__lets_its_workers_keep_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MALLOC_TRIM_THRESHOLD_"
    monkeypatch.delenv(name, raising=False)  # Dask leaves its own in the process that started one
    with ql.cluster("cpu") as client:
        assert set(client.run(os.environ.get, name).values()) == {None}


@pytest.mark.slow
def test_map_with_messages__finishes_the_others_before_it_raises() -> None:
    def work(tell: Any, task: int) -> int:
        tell((task, "begun"))
        if task == 1:
            raise InputError("1", expected="another number")
        time.sleep(0.5)
        tell((task, "done"))
        return task

    heard: list[tuple[int, str]] = []
    with ql.cluster("cpu") as client:
        assert map_with_messages(work, [0, 2, 3], client=client, listen=heard.append) == [
            0,
            2,
            3,
        ]
        assert sorted(heard) == [(n, what) for n in (0, 2, 3) for what in ("begun", "done")]
        heard.clear()
        with pytest.raises(InputError, match="another number"):
            map_with_messages(work, [1, 2, 3], client=client, listen=heard.append)
        assert (3, "done") in heard


# -- no run waits for ever -----------------------------------------------------------------------

WITH, WITHOUT, HALF = {"GPU": 1}, {}, {"GPU": 0.5}


@contextmanager
def workers(*resources: dict[str, float]) -> Iterator[Any]:
    """A cluster on loopback with a worker for each of these resources, in this process."""
    from distributed import Scheduler, SpecCluster, Worker

    specs = {
        n: {"cls": Worker, "options": {"nthreads": 1, "resources": each, "dashboard": False}}
        for n, each in enumerate(resources)
    }
    any_port = {"dashboard": False, "dashboard_address": ":0"}  # another test may have the default
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", **any_port}}
    with SpecCluster(specs, scheduler) as found:
        yield found


def name_of_worker(_: Any, task: int) -> int:
    from distributed import get_worker

    return int(get_worker().name)


def tell_worker(tell: Any, task: int) -> int:
    tell(task)
    return name_of_worker(None, task)


def both(client: Any, tasks: int = 4) -> list[list[int]]:
    """Names of the workers that did tasks which may use a GPU, by each of the two ways."""
    mapped = map_tasks(name_of_worker, None, range(tasks), cluster=client, lost=_raise, gpu=True)
    heard: list[int] = []
    telling = map_with_messages(
        tell_worker, range(tasks), client=client, listen=heard.append, gpu=True
    )
    assert sorted(heard) == list(range(tasks))
    return [list(mapped), telling]


def _raise(task: Any, error: BaseException) -> Any:
    raise error


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0, 4])
@pytest.mark.parametrize(
    ("resources", "used"),
    [
        ([WITHOUT, WITHOUT], {0, 1}),  # cluster="cpu", or LocalCUDACluster() of a user
        ([WITH, WITH], {0, 1}),  # as cluster="gpu" starts them
        ([WITHOUT, WITH], {1}),
        ([HALF], {0}),
    ],
)
@pytest.mark.parametrize("way", ["cluster", "client", "address"])
def test_gpu_tasks__go_where_a_worker_takes_them(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    resources: list[dict[str, float]],
    used: set[int],
    way: str,
) -> None:
    from distributed import Client

    monkeypatch.setattr(clusters, "gpu_count", lambda: gpus)  # of this machine: it says nothing
    with workers(*resources) as there, Client(there) as own:
        which = {"cluster": there, "client": own, "address": there.scheduler_address}[way]
        started = time.monotonic()
        with clusters.running(which) as client:
            for names in both(client):
                assert len(names) == 4
                assert set(names) <= used
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_gpu_tasks__end_on_the_cpu_cluster_of_a_gpu_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "gpu_count", lambda: 4)
    with clusters.running("cpu") as client:
        started = time.monotonic()
        assert [len(names) for names in both(client)] == [4, 4]
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("way", ["cluster", "client", "address"])
def test_no_workers__are_refused_in_one_line(way: str) -> None:
    from distributed import Client

    with workers() as there, Client(there) as own:
        which = {"cluster": there, "client": own, "address": there.scheduler_address}[way]
        started = time.monotonic()
        with pytest.raises(RunError, match=r"no worker within 3 s.*Start workers") as refused:
            with clusters.running(which):
                pass
        assert "\n" not in str(refused.value)
        with pytest.raises(RunError, match="no worker within"):
            both(own)
        assert time.monotonic() - started < 10  # twice


def test_no_workers__but_a_cluster_that_starts_them_for_tasks() -> None:
    from distributed import LocalCluster

    options: dict[str, Any] = {"processes": False, "dashboard_address": ":0"}
    with LocalCluster(n_workers=0, threads_per_worker=1, **options) as there:
        there.adapt(minimum=0, maximum=1, interval="100ms")
        with clusters.running(there) as client:
            assert [len(names) for names in both(client)] == [4, 4]


@pytest.mark.parametrize("with_messages", [False, True])
def test_workers__that_all_go_end_the_run(
    monkeypatch: pytest.MonkeyPatch, with_messages: bool
) -> None:
    from distributed import Client

    monkeypatch.setattr(of_cluster, "_SCALING", 0.5)
    monkeypatch.setattr(of_cluster, "_CHECK_INTERVAL", 0.1)
    with workers(WITH) as there, Client(there) as client:

        def close(_: Any) -> None:
            there.scale(0)

        def tasks_with_messages() -> None:
            map_with_messages(tell_and_wait, [0, 1], client=client, listen=close, gpu=True)

        def tasks_alone() -> None:
            options: dict[str, Any] = {"cluster": client, "lost": _raise, "gpu": True}
            for _ in map_tasks(wait_after_first, None, range(9), **options):
                close(None)

        with pytest.raises(RunError, match="no worker left"):
            (tasks_with_messages if with_messages else tasks_alone)()


def tell_and_wait(tell: Any, task: int) -> None:
    tell(task)
    time.sleep(1)


def wait_after_first(_: Any, task: int) -> None:
    time.sleep(min(task, 1))
