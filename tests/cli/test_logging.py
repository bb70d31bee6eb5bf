"""``--verbose``: log messages of the package on standard error."""

from __future__ import annotations

import logging

import pytest

import qmri_lake as ql
from qmri_lake.cli import _progress, main
from qmri_lake.cli._logging import show_log
from tests.fixtures import array_lake

Capture = pytest.CaptureFixture[str]


def log_all_levels() -> None:
    logger = logging.getLogger("qmri_lake.somewhere.below")
    logger.debug("details of a run")
    logger.info("a run started")
    logger.warning("a commit was retried")


@pytest.mark.parametrize(
    ("verbosity", "levels"),
    [(0, []), (1, ["INFO", "WARNING"]), (2, ["DEBUG", "INFO", "WARNING"])],
)
def test_show_log__prints_messages_from_the_level_on(
    verbosity: int, levels: list[str], capsys: Capture
) -> None:
    with show_log(verbosity):
        log_all_levels()
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == len(levels)
    for line, level in zip(lines, levels, strict=True):
        assert f" {level} qmri_lake.somewhere.below: " in line


def test_show_log__in_a_terminal_prints_on_the_console_of_the_progress_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(_progress.error_console, "_force_terminal", True)
    with show_log(1), _progress.counting("exams") as count:
        count(1, 3)
        log_all_levels()
    printed = capsys.readouterr().err
    assert "a run started" in printed
    assert "details of a run" not in printed


def test_show_log__leaves_the_logger_as_it_was(capsys: Capture) -> None:
    logger = logging.getLogger("qmri_lake")
    before = list(logger.handlers), logger.level
    with pytest.raises(RuntimeError, match="failed"), show_log(2):
        raise RuntimeError("failed")
    assert (list(logger.handlers), logger.level) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info", "{lake}"], []),
        (["-v", "info", "{lake}"], ["INFO"]),
        (["info", "{lake}", "--verbose"], ["INFO"]),
        (["-vv", "info", "{lake}"], ["DEBUG", "INFO"]),
        (["info", "-v", "{lake}", "-v"], ["DEBUG", "INFO"]),
    ],
)
def test_verbose__is_accepted_anywhere(
    words: list[str],
    expected: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    lake = array_lake(tmp_path_factory.mktemp("lake") / "l.lake").url
    open_lake = ql.lake.lake.open_lake

    def log_and_open(*arguments: object, **options: object) -> ql.Lake:
        logging.getLogger("qmri_lake.test").debug("details")
        logging.getLogger("qmri_lake.test").info("opening")
        return open_lake(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("qmri_lake.lake.lake.open_lake", log_and_open)
    assert main([word.replace("{lake}", lake) for word in words]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "qmri_lake.test" in line]
    assert [line.split(" qmri_lake.test")[0].split()[-1] for line in lines] == expected
