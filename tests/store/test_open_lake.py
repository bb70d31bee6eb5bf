"""An open lake whose folder was moved, and a process that was forked after a lake was opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import NotALakeError, RunError
from qmri_lake.store.location import OWNER_NAME
from qmri_lake.store.lock import LOCK_NAME, lock_owner
from tests.fixtures import array_lake

Capture = pytest.CaptureFixture[str]
USES: dict[str, Callable[[ql.Lake], object]] = {
    "exams": lambda lake: lake.exams,
    "load": lambda lake: lake.load("msme"),
    "refresh": lambda lake: lake.refresh(),
    "run": lambda lake: lake.run("t2", within="all"),
    "status": lambda lake: lake.status(),
    "repr": repr,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_moved_lake__is_named_and_not_created_again(
    tmp_path: Path, use: Callable[[ql.Lake], object]
) -> None:
    url = tmp_path / "x.lake"
    array_lake(url, 2)
    lake = ql.open_lake(str(url))
    url.rename(tmp_path / "y.lake")
    with pytest.raises(NotALakeError, match="the folder no longer exists"):
        use(lake)
    assert not url.exists()


def test_moved_lake__while_arrays_are_lazy(tmp_path: Path) -> None:
    url = tmp_path / "x.lake"
    image = array_lake(url, 2).load("msme")["image"]
    url.rename(tmp_path / "y.lake")
    with pytest.raises(NotALakeError, match="the folder no longer exists"):
        image.compute(scheduler="single-threaded")


def test_fork__after_a_lake_was_opened_raises(tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "x.lake", 2)
    image = lake.load("msme")["image"]
    in_child: dict[str, Callable[[], object]] = {
        "open": lambda: ql.open_lake(lake.url),
        "refresh": lake.refresh,
        "root": lambda: lake.root,
        "compute": lambda: image.compute(scheduler="single-threaded"),
    }
    for name, use in in_child.items():
        assert _raises_in_child(use), name


def _raises_in_child(use: Callable[[], object]) -> bool:
    """Return whether a forked child gets a `RunError`; an endless wait would be a timeout."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            use()
        except RunError as error:
            code = 0 if "forked after a lake had been opened" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    "content", ["", "nonsense", "[]", "{}", '{"process": "x"}', "\0\0", '{"process": 1e400}']
)
def test_writer_record__of_nonsense_is_reported_and_removed(
    tmp_path: Path, capsys: Capture, content: str
) -> None:
    url = tmp_path / "x.lake"
    array_lake(url, 2)
    (url / OWNER_NAME).write_text(content)
    (url / LOCK_NAME).touch()
    assert lock_owner(str(url)) is not None
    assert main(["doctor", str(url)]) == 0
    assert "writer.json: not the record of a writer. It is harmless" in capsys.readouterr().out
    assert main(["doctor", str(url), "--repair"]) == 0
    assert not (url / OWNER_NAME).exists()
