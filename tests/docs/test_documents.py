"""Run every example of the documentation and compare its output; check generated pages and links.

Python examples are doctests in ``python`` fences. Shell examples are ``console`` fences; their
``$ qmri-lake`` lines are run in this process. The examples of a document share one namespace and
one empty working folder.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _State:
    """What the first commands of a document leave in its folder, and what the last one prints."""

    folder: Path
    printed: str

    def restore(self) -> None:
        """Replace the content of the working folder."""
        for path in Path().iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.folder, Path(), dirs_exist_ok=True)


States = dict[tuple[str, ...], _State]
"""States of documents by all their commands so far: documents that start alike share them."""


class _Console(CodeBlockParser):
    """Runs the ``$`` lines of a console fence and compares their output, if the fence shows it."""

    def __init__(
        self, capture: pytest.CaptureFixture[str], states: States, folders: pytest.TempPathFactory
    ) -> None:
        super().__init__(language="console")
        self.capture, self.states, self.folders = capture, states, folders
        self.commands: tuple[str, ...] = ()
        self.fences = 0
        self.at_start = True
        """Whether no example in Python came before."""

    def run(self, command: str) -> tuple[int, str, str]:
        """Run a command, or restore what it left in another document; return code and output."""
        program, *words = shlex.split(command)
        assert program == "qmri-lake", f"documents run qmri-lake, not {command}"
        self.commands = (*self.commands, command)
        if self.at_start and self.commands in self.states:
            state = self.states[self.commands]
            state.restore()
            return 0, state.printed, ""
        self.capture.readouterr()
        code = main(words)
        printed, errors = self.capture.readouterr()
        if self.at_start and code == 0 and words[0] in ("phantom", "ingest", "run"):
            folder = self.folders.mktemp("state")
            shutil.copytree(Path(), folder, dirs_exist_ok=True)
            self.states[self.commands] = _State(folder, printed)
        return code, printed, errors

    def evaluate(self, example: Example) -> str | None:
        self.fences += 1
        for block in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
            command, _, expected = block.partition("\n")
            code, printed, errors = self.run(command)
            assert code == 0 or "error:" in expected, f"{command}: {code}\n{errors}"
            if expected.strip():
                got = errors if code else printed
                checker = doctest.OutputChecker()
                if not checker.check_output(expected, got, FLAGS):
                    difference = checker.output_difference(
                        doctest.Example(command, expected), got, FLAGS
                    )
                    return f"{command}\n{difference}"
        return None


@pytest.fixture(scope="module")
def states() -> States:
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_document__examples_give_their_output(
    name: Path,
    states: States,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    console = _Console(capsys, states, tmp_path_factory)
    parsers: list[Any] = [PythonCodeBlockParser(doctest_optionflags=FLAGS), console]
    document: Document = Sybil(parsers, path=str(ROOT)).parse(ROOT / name)
    for number, example in enumerate(document.examples()):
        console.at_start = number == console.fences
        example.evaluate()


def test_documents__links_have_targets() -> None:
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


def test_documents__generated_pages_are_up_to_date() -> None:
    # In another process, because the examples above declare further variables in this one.
    check = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_documents__contain_no_path_of_this_machine() -> None:
    home = os.path.expanduser("~")
    for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text, path
        assert f"{home}/" not in text, path
