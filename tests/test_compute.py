"""Where the work happens: what a cluster that was started here leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

import qmri_lake as ql
from qmri_lake import compute


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
