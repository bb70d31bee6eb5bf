"""The generator of documentation pages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import qmri_lake
from docs import generate


def test_modules__names_every_package_and_public_module() -> None:
    tree = generate.modules()
    root = Path(qmri_lake.__file__).parent
    lines = [line.split(maxsplit=1) for line in tree.splitlines()[1:-1]]
    names = [name for name, _ in lines]
    public = [path.name for path in root.rglob("*.py") if not path.name.startswith("_")]
    packages = [f"{path.parent.name}/" for path in root.rglob("__init__.py")]
    assert sorted(names) == sorted(public + packages)
    assert all(text.rstrip().endswith((".", ":")) for _, text in lines), "no first line"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page = "explanation/architecture.md"
    (tmp_path / "explanation").mkdir()
    shutil.copy(generate.DOCS / page, tmp_path / page)
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    monkeypatch.setattr(generate, "PAGES", {page: generate.architecture})
    return tmp_path


def test_main__updates_only_the_section_between_the_markers(
    docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = docs / "explanation/architecture.md"
    page.write_text(f"# Before\n\n{generate.BEGIN}\noutdated tree\n\n{generate.END}\n## After\n")
    assert generate.main(["--check"]) == 1
    assert "docs/explanation/architecture.md is out of date" in capsys.readouterr().out
    assert "outdated tree" in page.read_text()
    assert generate.main([]) == 0
    text = page.read_text()
    assert text.startswith("# Before\n\n")
    assert text.endswith("\n## After\n")
    assert generate.modules() in text
    assert "outdated tree" not in text
    assert generate.main(["--check"]) == 0


def test_main__a_missing_marker_is_an_error(docs: Path) -> None:
    (docs / "explanation/architecture.md").write_text("# No markers\n")
    with pytest.raises(ValueError, match="a marker is missing"):
        generate.main([])
