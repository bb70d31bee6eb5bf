"""Where the work happens: what a cluster that was started here leaves behind."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

import qmri_lake as ql
from qmri_lake import compute
from qmri_lake.errors import InputError


def test_cluster__stills_its_workers_before_it_closes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    beating: list[bool] = []

    def beats(dask_worker: Any) -> bool:
        return bool(dask_worker.periodic_callbacks["heartbeat"].is_running())

    stop = compute._stop_heartbeats

    def watched(client: Any) -> None:
        beating.extend(client.run(beats).values())
        stop(client)
        beating.extend(client.run(beats).values())

    monkeypatch.setattr(compute, "_stop_heartbeats", watched)
    with ql.cluster("cpu") as client:
        workers = len(client.nthreads())
        assert client.submit(sum, [1, 2]).result() == 3
    assert beating == [True] * workers + [False] * workers
    assert capfd.readouterr().err == ""


def test_cluster__lets_its_workers_keep_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MALLOC_TRIM_THRESHOLD_"
    monkeypatch.delenv(name, raising=False)  # Dask leaves its own in the process that started one
    with ql.cluster("cpu") as client:
        assert set(client.run(os.environ.get, name).values()) == {None}


def test_map_telling__finishes_the_others_before_it_raises() -> None:
    def work(tell: Any, task: int) -> int:
        tell((task, "begun"))
        if task == 1:
            raise InputError("1", expected="another number")
        time.sleep(0.5)
        tell((task, "done"))
        return task

    heard: list[tuple[int, str]] = []
    with ql.cluster("cpu") as client:
        assert compute.map_telling(work, [0, 2, 3], client=client, listen=heard.append) == [0, 2, 3]
        assert sorted(heard) == [(n, what) for n in (0, 2, 3) for what in ("begun", "done")]
        heard.clear()
        with pytest.raises(InputError, match="another number"):
            compute.map_telling(work, [1, 2, 3], client=client, listen=heard.append)
        assert (3, "done") in heard
