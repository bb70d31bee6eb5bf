"""Fixtures of all tests: real data, knees to train on, and the judge of the acceptance table."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# As the command line does, and before torch is imported: two test processes of two threads each
# would spend most of their time in waiting for one another.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Tests have no terminal. A parent process that uses readline exports a size of 80 x 24 to them.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

import qmri_lake as ql

if TYPE_CHECKING:
    from tests.execution.killable_run import RunServer

Judge = Callable[..., None]

MAY_LACK = bool(os.environ.get("QMRI_LAKE_TESTS_MAY_LACK"))
"""Whether tests of packages that are not installed are skipped, which `make test-newest` asks for.
Everywhere else such a test fails: `make env` installs all that tests import."""


def missing_package(error: BaseException | None) -> str | None:
    """Return the package that is not installed and whose import made an error, if that is why."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            root = error.name.partition(".")[0]
            if root not in ("qmri_lake", "tests") and importlib.util.find_spec(root) is None:
                return root
        error = error.__cause__ or error.__context__
    return None


class SkippableModule(pytest.Module):
    """A module of tests that is skipped as a whole when what it imports is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            package = missing_package(error)
            if package is None:
                raise
            raise pytest.skip.Exception(f"needs {package}", allow_module_level=True) from None


if MAY_LACK:

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        return SkippableModule.from_parent(parent, path=module_path)

    def skipping() -> Generator[None, object, object]:
        try:
            return (yield)
        except Exception as error:
            package = missing_package(error)
            if package is None:
                raise
            raise pytest.skip.Exception(f"needs {package}") from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup() -> Generator[None, object, object]:
        return (yield from skipping())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call() -> Generator[None, object, object]:
        return (yield from skipping())


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip a test that imports packages in another process, where `make test-newest` lacks them."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(
        MAY_LACK and bool(absent), reason="needs " + " and ".join(absent or packages)
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files of slow tests, so that no process waits for one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that is not part of the project."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("QMRI_LAKE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set QMRI_LAKE_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def training_lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Six small knees with references, opened to read."""
    from tests.segmentation.trainings import lake_with_references

    url = lake_with_references(tmp_path_factory.mktemp("training")).url
    return ql.open_lake(url, mode="r")


@pytest.fixture(scope="session")
def run_server() -> Iterator[RunServer]:
    """A server that forks runs, which tests kill."""
    from tests.execution.killable_run import RunServer

    server = RunServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lake of 47,078 exams; tests only read it."""
    from benchmarks.lake_scale import big_lake

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


@pytest.fixture(scope="session")
def case_control_lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Sixty exams of thirty patients with maps and labels; tests may add predictions."""
    from tests.diagnosis.case_control_lake import make_case_control_lake

    return make_case_control_lake(tmp_path_factory.mktemp("case_control_lake") / "oai.lake")


@pytest.fixture(scope="session")
def oa_models(case_control_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of OA by thickness, of all three bones, after one epoch."""
    import torch  # noqa: F401  # the error of a failed model hides that it is not installed

    from qmri_lake.diagnosis.training.train_classifiers import train_classifiers

    out = tmp_path_factory.mktemp("models") / "oa"
    train_classifiers(
        case_control_lake, "oa", preset="small", out=out, strategies="thickness", epochs=1
    )
    return out


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Record a line of the acceptance table, and fail the test if it is missed.

    ``judge("T2 / optimum", required="0 of 12,000 worse", measured="0", passed=True)``. Every test
    that asks for this fixture is run by ``make accept``; those marked ``accept`` only there.
    """

    def record(line: str, *, required: str, measured: str, passed: bool) -> None:
        request.node.user_properties.append(("judged", (line, required, measured, bool(passed))))
        assert passed, f"{line}: required {required}; measured {measured}"

    return record
