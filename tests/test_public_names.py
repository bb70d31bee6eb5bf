"""The public names of the package, whatever has been imported before."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import qmri_lake as ql


def _import_everything() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(ql.__path__, "qmri_lake.")]
    for name in names:
        importlib.import_module(name)
    return names


def test_public_names__no_module_hides_a_function() -> None:
    _import_everything()
    for name, home in ql._HOME.items():
        assert getattr(ql, name) is getattr(importlib.import_module(f"qmri_lake.{home}"), name)


def test_public_names__all_are_there_and_listed() -> None:
    assert sorted(ql.__all__) == sorted({*ql._HOME, *ql._MODULES, "__version__"})
    assert set(ql.__all__) == set(dir(ql))


def test_public_names__an_unknown_one_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fit_t3'"):
        ql.fit_t3  # noqa: B018


def test_modules__say_what_is_public() -> None:
    for name in _import_everything():
        module = importlib.import_module(name)
        missing = [
            public for public in getattr(module, "__all__", ()) if not hasattr(module, public)
        ]
        assert not missing, (name, missing)
        assert module.__doc__, name
