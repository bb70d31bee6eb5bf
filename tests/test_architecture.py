"""The shape of the package: where imports may point, and how large modules are.

`lint-imports` checks the same contracts by its own graph. Here imports are read from the source, so
that those inside functions and for type checking count as well.
"""

from __future__ import annotations

import ast
import statistics
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qmri_lake"


@cache
def modules() -> dict[str, Path]:
    """Return files by the name of their module, without the package's own name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("qmri_lake."):
                    yield alias.name.removeprefix("qmri_lake.")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if not (node.module or "").startswith("qmri_lake"):
                continue
            package = str(node.module).removeprefix("qmri_lake").removeprefix(".")
            for alias in node.names:
                name = f"{package}.{alias.name}".removeprefix(".")
                yield name if name in modules() else package


@cache
def graph() -> dict[str, frozenset[str]]:
    return {name: frozenset(imports(path)) - {name} for name, path in modules().items()}


@cache
def layers() -> list[list[str]]:
    """Return the layers of the contract, from the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (rows,) = (c["layers"] for c in contracts if c["type"] == "layers")
    return [[name.strip() for name in row.split("|")] for row in rows]


@cache
def floor(module: str) -> tuple[int, str] | None:
    """Return the layer of a module, 0 at the top, and its entry; None for the package itself."""
    for level, row in enumerate(layers()):
        for entry in row:
            if module == entry or module.startswith(f"{entry}."):
                return level, entry
    return None


def test_imports__point_down() -> None:
    upward = []
    for module, targets in graph().items():
        for target in targets:
            here, there = floor(module), floor(target)
            if here is None or there is None:
                continue
            if there[0] < here[0] or (there[0] == here[0] and there[1] != here[1]):
                upward.append(f"{module} -> {target}")
    assert not upward


def test_imports__have_no_circle() -> None:
    # The package itself serves public names of all layers, and nothing may import them from there.
    inner = {name: targets for name, targets in graph().items() if name}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        raise AssertionError(f"circle: {' -> '.join(error.args[1])}") from None


def test_layers__name_every_module() -> None:
    """A new package must be placed in the contract; faces of packages stand above their parts."""
    without = [name for name in modules() if name and floor(name) is None]
    assert sorted(without) == ["diagnosis", "segmentation"]


def test_modules__few_at_the_root() -> None:
    root = [name for name, path in modules().items() if path.parent == PACKAGE and name]
    assert len(root) <= 6, root


def test_modules__are_short() -> None:
    lines = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()
    }
    sizes = sorted(lines.values())
    longest = max(lines, key=lambda name: lines[name])
    assert statistics.median(sizes) <= 150
    assert sizes[int(0.9 * len(sizes))] <= 350
    assert lines[longest] <= 450, longest
