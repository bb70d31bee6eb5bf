"""Run every judged line and write docs/reference/acceptance.md: required, measured, verdict.

Usage: ``python -m tests.acceptance [--update] [pytest arguments]`` (``make accept``). Lines come
from tests that ask for the fixture `judge`. A test that is marked `accept` and does not judge, as
it is too slow for ``make test``, gives the line that it passed. A test that is skipped for another
reason than `gpu`, or that fails before it has judged, is a miss too. With arguments only those
tests run, and the page is printed; with --update their lines are replaced in the page, and the
others stay. Each line says of which commit it is.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "acceptance.md"

HEAD = """# Acceptance

Requirements of this version, and measured values. `make accept` writes this page; each line is a
test that fails if its requirement is not met. CPU times are process time.

Last run: {date}; {machine}.

| line | required | measured | verdict | commit |
| --- | --- | --- | --- | --- |
"""
_CELL = re.compile(r"(?<!\\) \| ")


@dataclass(eq=False)  # pytest keeps plugins in a set
class Table:
    """The pytest plugin that keeps judged and slow tests and gathers their lines."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    """Names of tests; one that failed before it judged has left its name in the page."""
    old: Sequence[Sequence[str]] = ()
    """Lines of the page before the run."""
    path: Path | None = None
    """Page to write after each test, with the old lines of other tests; None: no page."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item
            for item in items
            if "judge" in getattr(item, "fixturenames", ()) or item.get_closest_marker("accept")
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        judged = [value for name, value in report.user_properties if name == "judged"]
        name = report.nodeid.partition("::")[2]
        self.ran.add(name)
        if report.when == "call":
            for line, required, measured, passed in judged:
                self.rows.append((line, required, measured, "pass" if passed else "**miss**"))
            if report.passed and not judged:
                seconds = f"{report.duration:.0f} s"
                self.rows.append((f"test / {name}", "passes", seconds, "pass"))
        if report.skipped:
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
            gpu = "gpu" in report.keywords
            self.rows.append((name, "-", reason, "skip (gpu)" if gpu else "**skip**"))
        elif report.failed and not any(not passed for *_, passed in judged):
            self.rows.append(
                (name, "-", f"failed before it was judged ({report.when})", "**miss**")
            )

    def pytest_runtest_logfinish(self) -> None:
        if self.path is not None:  # a run takes hours, and may be stopped
            self.path.write_text(self.page(self.old), encoding="utf-8")

    @property
    def missed(self) -> bool:
        return not self.rows or any(verdict.startswith("**") for *_, verdict in self.rows)

    def page(self, kept: Sequence[Sequence[str]] = ()) -> str:
        """Return the page: these lines, and of those that are `kept` all others."""
        commit = f"`{_git('rev-parse', '--short=9', 'HEAD')}`{_changes()}"
        cells = [
            [*(cell.replace("|", "\\|").replace("\n", " ") for cell in row), commit]
            for row in self.rows
        ]
        new = {row[0] for row in cells} | self.ran
        cells += [list(row) for row in kept if row[0] not in new]
        head = HEAD.format(date=datetime.now(UTC).date().isoformat(), machine=_machine())
        return head + "".join(f"| {' | '.join(row)} |\n" for row in sorted(cells))


def _lines_of(page: str) -> list[list[str]]:
    """Return the lines of a page, without the head of the table."""
    rows = [_CELL.split(line[2:-2]) for line in page.splitlines() if line.startswith("| ")]
    return rows[2:]


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _changes() -> str:
    """Say so when what was measured is not what was committed; the page itself does not count."""
    changed = [name for name in _git("status", "--porcelain").splitlines() if PAGE.name not in name]
    return " with uncommitted changes" if changed else ""


def _machine() -> str:
    import platform

    import psutil

    from qmri_lake.core.devices import gpu_count

    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {gpu_count() or 'no'} GPU, "
        f"Python {platform.python_version()}"
    )


def main(arguments: Sequence[str]) -> int:
    update = "--update" in arguments
    arguments = [argument for argument in arguments if argument != "--update"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    old = _lines_of(PAGE.read_text(encoding="utf-8"))
    table = Table(old=old, path=PAGE if update or not arguments else None)
    code = pytest.main(
        ["-p", "no:cacheprovider", "--timeout=3600", "-q", *arguments], plugins=[table]
    )
    stopped = code == pytest.ExitCode.INTERRUPTED
    page = table.page(old if update or stopped else ())
    if arguments and not update:
        print(page)
    else:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
        print(f"{len(table.rows)} lines in {PAGE}")
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
