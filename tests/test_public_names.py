"""The public names of the package, whatever has been imported before."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import qmri_lake as ql


def _import_everything() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(ql.__path__, "qmri_lake.")]
    for name in names:
        importlib.import_module(name)
    return names


@pytest.mark.parametrize(
    "package", [ql, ql.diagnosis, ql.report, ql.segmentation], ids=lambda package: package.__name__
)
def test_public_names__are_there_whatever_was_imported(package: ModuleType) -> None:
    modules = set(_import_everything())
    public = set(package.__all__) - {"__version__"}
    assert public == set(dir(package))
    for name in public:
        found = getattr(package, name)
        if isinstance(found, ModuleType):  # one that is meant, and hides no function of its name
            assert found.__name__ in modules
            assert found.__name__.startswith(f"{package.__name__}.")
            assert found.__name__.endswith(f".{name}")
            assert not callable(getattr(found, name, None))


@pytest.mark.parametrize("name", ["Frame", "side", "splits"])
def test_public_names__aliases_of_version_0_1(name: str) -> None:
    assert getattr(ql.segmentation, name).__doc__


def test_public_names__an_unknown_one_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No qmri_lake attribute fit_t3"):
        ql.fit_t3  # noqa: B018


@pytest.mark.slow
def test_modules__say_what_is_public() -> None:
    for name in _import_everything():
        module = importlib.import_module(name)
        missing = [
            public for public in getattr(module, "__all__", ()) if not hasattr(module, public)
        ]
        assert not missing, (name, missing)
        assert module.__doc__, name
