"""Every example of the documents is run, and what it prints is compared.

Python examples are doctests in ``python`` fences; shell examples are ``console`` fences, whose
``$ qmri-lake`` lines are run in this process. A document's examples share one namespace and one
empty working folder.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from qmri_lake.cli import main

ROOT = Path(__file__).parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for path in (
        ROOT / "README.md",
        *ROOT.glob("docs/tutorial/*.md"),
        *ROOT.glob("docs/how_to/*.md"),
        *ROOT.glob("docs/explanation/*.md"),
    )
)


class _Console(CodeBlockParser):
    """Runs the ``$`` lines of a console fence and compares what they print, if it is shown."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        super().__init__(language="console")
        self.capture = capture

    def evaluate(self, example: Example) -> str | None:
        for block in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
            command, _, expected = block.partition("\n")
            words = shlex.split(command)
            assert words[0] == "qmri-lake", f"documents run qmri-lake, not {command}"
            self.capture.readouterr()
            code = main(words[1:])
            printed = self.capture.readouterr()
            assert code == 0 or "error:" in expected, f"{command}: {code}\n{printed.err}"
            if expected.strip():
                got = printed.err if code else printed.out
                checker = doctest.OutputChecker()
                if not checker.check_output(expected, got, FLAGS):
                    difference = checker.output_difference(
                        doctest.Example(command, expected), got, FLAGS
                    )
                    return f"{command}\n{difference}"
        return None


@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_document__examples_run(
    name: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    parsers: list[Any] = [PythonCodeBlockParser(doctest_optionflags=FLAGS), _Console(capsys)]
    document: Document = Sybil(parsers, path=str(ROOT)).parse(ROOT / name)
    for example in document.examples():
        example.evaluate()


def test_documents__links_lead_somewhere() -> None:
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "catalogs/README.md"]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    ]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page, target in links
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken, broken


def test_documents__pages_made_from_the_code_are_up_to_date() -> None:
    # In a process of its own: the examples above have declared variables of their own here.
    check = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_documents__name_no_place_of_one_machine() -> None:
    home = os.path.expanduser("~")
    for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text, path
        assert f"{home}/" not in text, path
