"""Sections of the paper report."""

from __future__ import annotations

import pytest

from qmri_lake.errors import NotFoundError
from qmri_lake.report.paper.section import Section, try_section


def test_try_section__gives_the_reason_without_the_path() -> None:
    def make() -> Section:
        raise NotFoundError(
            "no exam with T2", expected="at least one", where="/data/oai.lake", todo="Run step t2."
        )

    section = try_section("Figure S3", make)
    assert (section.title, section.tables, section.figures) == ("Figure S3", {}, {})
    assert section.warnings == (
        "Not available: no exam with T2 (expected at least one). Run step t2.",
    )


def test_try_section__keeps_the_section_and_sets_the_title() -> None:
    section = try_section("Table 1", lambda: Section("a note", warnings=("few exams",)))
    assert (section.title, section.note, section.warnings) == ("Table 1", "a note", ("few exams",))


def test_try_section__does_not_hide_programming_errors() -> None:
    def make() -> Section:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        try_section("Table 1", make)
