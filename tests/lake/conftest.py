"""Fixtures of the tests of the lake: a server of killable runs, two Dask workers, a large lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lake_scale import big_lake
from tests.lake.killable import RunServer


@pytest.fixture(scope="session")
def run_server() -> Iterator[RunServer]:
    server = RunServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lake of 47,078 exams; tests only read it."""
    folder = tmp_path_factory.mktemp("big") / "big.lake"
    big_lake(folder)
    return folder


@pytest.fixture(scope="session")
def workers() -> Iterator[Any]:
    """A client of two single-threaded worker processes."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        # Not the default of other tests, whose lazy work would go there as long as it lives.
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
