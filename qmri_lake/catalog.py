"""Catalogs of lakes for intake, with one entry for each group of a lake.

Only this module imports intake. A catalog is a YAML file that refers to the classes below by module
path, so that ``intake.open_catalog(path)`` can read it. `open_catalog` runs no other code that a
file names, and its errors list the available names.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import xarray as xr
import yaml  # type: ignore[import-untyped]
from intake.readers.datatypes import BaseData
from intake.readers.entry import Catalog
from intake.readers.readers import BaseReader
from intake.readers.user_parameters import BaseUserParameter

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotALakeError, NotFoundError, QueryError, Reason
from qmri_lake.lake.lake import Lake, open_lake
from qmri_lake.schema.groups import GROUPS
from qmri_lake.store.repository import is_local

__all__ = ["LakeCatalog", "LakeData", "LakeReader", "Text", "open_catalog", "write_catalog"]

PARAMETERS: Mapping[str, str] = {
    "query": "Exams to load, such as \"knee == 'right' and kl >= 2\"; empty: all",
    "lake_ref": "A tag, branch or snapshot of the lake; empty: its newest commit",
}
"""Parameters of a catalog."""


class LakeData(BaseData):
    """Location of a lake.

    Parameters
    ----------
    url : str
        URL or path as in `qmri_lake.open_lake`, or relative to ``{CATALOG_DIR}``.
    metadata : mapping, optional
        The value of ``absent`` is the advice that the error gives if there is no lake yet.
    """

    def __init__(self, url: str, metadata: JsonObject | None = None, **unknown: object) -> None:
        _check_parameters(unknown)
        self.url = _normalise_url(url)
        super().__init__(metadata)


class LakeReader(BaseReader):
    """Read one group of a lake, or several joined groups, as `qmri_lake.Lake.load` does."""

    implements: set[Any] = {LakeData}  # noqa: RUF012
    output_instance = "xarray:Dataset"

    def _read(
        self,
        data: LakeData,
        *,
        group: str | Sequence[str],
        cohort: object = "",
        ref: object = "",
        query: object = None,
        lake_ref: object = None,
        **unknown: object,
    ) -> xr.Dataset:
        # A catalog passes its parameters query and lake_ref as cohort and ref, because intake
        # drops arguments that have the name of a parameter. Callers of read() use query and
        # lake_ref.
        _check_parameters(unknown)
        chosen = _parameter_text("query", cohort if query is None else query)
        try:
            lake = open_lake(
                data.url,
                ref=_parameter_text("lake_ref", ref if lake_ref is None else lake_ref),
                mode="r",
            )
        except NotALakeError as error:
            todo = data.metadata.get("absent", error.todo)
            raise NotALakeError(
                error.found, expected=error.expected, where=data.url, todo=todo, reason=error.reason
            ) from error
        return lake.load(group, chosen)


class Text(BaseUserParameter):
    """A parameter whose value is not interpreted as a template.

    intake evaluates templates in the values of its own parameters: ``func(os:system)`` would import
    a module. It does not evaluate strings inside a tuple; the reader unpacks the tuple.
    """

    def coerce(self, value: object) -> tuple[object, ...]:
        """Return the value that a user gave, in a tuple."""
        return value if isinstance(value, tuple) else (value,)


class _NoEntryError(NotFoundError, AttributeError):
    """An entry does not exist: a KeyError for ``cat[name]``, an AttributeError for ``cat.name``."""


class LakeCatalog(Catalog):
    """An intake catalog whose errors list the available names; see `open_catalog`."""

    def __call__(self, **parameters: object) -> LakeCatalog:
        """Return a copy with parameters set, such as ``query`` and ``lake_ref``."""
        known = [n for n, p in self.user_parameters.items() if isinstance(p, BaseUserParameter)]
        _check_parameters({name: v for name, v in parameters.items() if name not in known}, known)
        return _to_lake_catalog(self, {**self._up_overrides, **parameters})

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            entries = sorted(self)
            raise _NoEntryError(
                f"no entry {name!r}",
                expected=f"one of {', '.join(entries) or '(the catalog is empty)'}",
                where=str(self.user_parameters.get("CATALOG_PATH", "catalog")),
                todo=did_you_mean(name, entries, n=1),
            )
        return Catalog.__getitem__(self, name)

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look attributes up before the dictionary of entries exists.
        if name.startswith("_") or "aliases" not in self.__dict__:
            raise AttributeError(name)
        return self[name]


def open_catalog(path: str | os.PathLike[str]) -> LakeCatalog:
    """Open a catalog of lakes. Unlike intake, it runs no code that the file names.

    ``intake.open_catalog(path)`` reads the same file and returns the same data, but an entry of an
    intake catalog can import any module and call any function. Therefore this function refuses all
    entries except those that read a lake. Its errors also list the available names: with intake, an
    unknown entry raises an ``AttributeError`` that contains only the name, and an unknown parameter
    raises an error only when an entry is read.

    Parameters
    ----------
    path : str or path
        A YAML file, or its URL.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If the file is not a catalog, or contains anything else than entries of lakes.
    """
    where = os.fspath(path)
    # Read the file only once, so that exactly the checked content is opened.
    file = fsspec.open(where)
    with file as stream:
        try:
            content = yaml.safe_load(stream)
        except yaml.YAMLError as error:
            raise _not_ours("not a YAML file", "a catalog", where) from error
    _check_content(content, where)
    cat = Catalog.from_dict(content)
    # As Catalog.from_yaml_file does.
    folder = file.fs.unstrip_protocol(file.fs._parent(where))
    cat.user_parameters |= {"CATALOG_PATH": where, "CATALOG_DIR": folder, "STORAGE_OPTIONS": {}}
    return _to_lake_catalog(cat, {})


_KEYS = {
    "": {"version", "metadata", "aliases", "data", "entries", "user_parameters"},
    "data": {"datatype", "kwargs", "metadata", "user_parameters"},
    "entries": {"reader", "kwargs", "metadata", "output_instance", "user_parameters"},
    "user_parameters": {"cls", "default", "description"},
}
"""Keys of the sections of a catalog that `write_catalog` writes."""
_TEMPLATE = re.compile(r"\{[^{}]*\}?|\}")
_HARMLESS = re.compile(r"\{(CATALOG_DIR|query|lake_ref|data\(\w+\)|env\(\w+\))\}")
"""Templates of intake that call no function."""


def _check_content(content: object, where: str) -> None:
    """Raise an error if a catalog names code or a template that `write_catalog` does not write."""
    if not isinstance(content, dict) or content.get("version") != 2:
        raise _not_ours("not a catalog of version 2", "a file written by write_catalog", where)
    _check_keys(content, "", "the catalog", where)
    for text in _texts(content):
        for found in _TEMPLATE.findall(text):
            if not _HARMLESS.fullmatch(found):
                raise _not_ours(f"template {found!r}", "{CATALOG_DIR} or {query}, ...", where)
    classes = {
        "data": {"datatype": f"{__name__}:LakeData"},
        "entries": {
            "reader": f"{__name__}:LakeReader",
            "output_instance": LakeReader.output_instance,
        },
        "user_parameters": {"cls": f"{__name__}:Text"},
    }
    for section, expected in classes.items():
        for name, entry in dict(content.get(section) or {}).items():
            _check_keys(entry, section, f"{section} {name!r}", where)
            if section != "user_parameters" and entry.get("user_parameters"):
                raise _not_ours(f"{section} {name!r} has parameters of its own", "none", where)
            for key, value in expected.items():
                if entry.get(key) != value:
                    found = f"{section} {name!r} has {key} {entry.get(key)!r}"
                    raise _not_ours(found, value, where)


def _check_keys(found: object, section: str, what: str, where: str) -> None:
    if not isinstance(found, dict) or not set(found) <= _KEYS[section]:
        others = sorted(map(str, set(found) - _KEYS[section])) if isinstance(found, dict) else []
        raise _not_ours(
            f"{what} has {', '.join(others) or 'no keys'}", ", ".join(sorted(_KEYS[section])), where
        )


def _texts(value: object) -> Iterator[str]:
    """Yield all strings of a parsed YAML file, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _texts(list(pair))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _not_ours(found: str, expected: str, where: str) -> InputError:
    return InputError(
        found,
        expected=expected,
        where=where,
        todo="A catalog can run code. If you trust its author, use intake.open_catalog(path).",
        reason=Reason.UNREADABLE_FILE,
    )


def _to_lake_catalog(cat: Catalog, parameters: JsonObject) -> LakeCatalog:
    return LakeCatalog(
        entries=cat.entries,
        aliases=cat.aliases,
        data=cat.data,
        user_parameters=cat.user_parameters,
        parameter_overrides=parameters,
        metadata=cat.metadata,
    )


def write_catalog(lake: Lake | str | os.PathLike[str], path: str | Path | None = None) -> Path:
    """Write a catalog of a lake, with one entry for each of its groups.

    Parameters
    ----------
    lake : Lake, or its URL or path
        The `ref` of the lake is ignored: by default, the catalog opens the newest commit.
    path : path, optional
        The YAML file. Default: next to a local lake, ``oai.yaml`` for ``oai.lake``. If the lake is
        in or below the folder of the file, the file stores a relative path, so that both can be
        moved together.

    Returns
    -------
    Path
        The YAML file. An existing file is replaced.

    Raises
    ------
    NotALakeError
        If there is no lake.
    """
    url = _normalise_url(lake.location if isinstance(lake, Lake) else os.fspath(lake))
    groups = open_lake(url, mode="r").groups()
    if is_local(url):
        url = str(Path(url).expanduser().resolve())
    elif path is None:
        raise QueryError("no path for the catalog", expected="a local YAML file", where=url)
    file = Path(url).with_suffix(".yaml") if path is None else Path(path).expanduser()
    folder = file.resolve().parent
    if is_local(url) and Path(url).is_relative_to(folder):
        url = f"{{CATALOG_DIR}}/{Path(url).relative_to(folder).as_posix()}"
    text = yaml.safe_dump(_content(url, groups), sort_keys=False, width=100)
    file.write_text(f"# Written by qmri_lake: intake.open_catalog({file.name!r})\n{text}")
    return file


def _content(url: str, groups: Sequence[str]) -> JsonObject:
    """Return the content of the YAML file."""
    parameters = {"cohort": "{query}", "ref": "{lake_ref}"}
    return {
        "version": 2,
        "metadata": {},
        # intake lists only entries with an alias.
        "aliases": {group: group for group in groups},
        "data": {
            "lake": {
                "datatype": f"{__name__}:LakeData",
                "kwargs": {"url": url},
                "metadata": {},
                "user_parameters": {},
            },
        },
        "entries": {
            group: {
                "reader": f"{__name__}:LakeReader",
                "kwargs": {"data": "{data(lake)}", "group": group, **parameters},
                "metadata": {"description": GROUPS.prose(group)},
                "output_instance": LakeReader.output_instance,
                "user_parameters": {},
            }
            for group in groups
        },
        "user_parameters": {
            name: {"cls": f"{__name__}:Text", "default": "", "description": prose}
            for name, prose in PARAMETERS.items()
        },
    }


def _normalise_url(url: str) -> str:
    """Normalise a URL such as ``{CATALOG_DIR}/../x`` to a plain path, or to a URL without ``..``.

    intake creates ``file://`` URLs without quoting, so a path may contain ``#`` or ``%``.
    """
    if not isinstance(url, str) or not url:
        raise NotALakeError(
            "no URL of the lake",
            expected="a folder, s3://, gs:// or az://account@container/",
            where="catalog",
            todo="Set it in the catalog, under data / lake / kwargs / url.",
            reason=Reason.NOT_A_LAKE,
        )
    scheme, found, path = url.rpartition("://")
    if not found or scheme == "file":
        return os.path.normpath(path)
    return f"{scheme}://{posixpath.normpath(path)}"


def _parameter_text(name: str, value: object) -> str | None:
    """Unwrap a parameter (`Text`); return None for an empty string."""
    if isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    if value is not None and not isinstance(value, str):
        raise QueryError(
            f"{name} = {value!r}", expected=f"a string: {PARAMETERS[name]}", where="catalog"
        )
    return value or None


def _check_parameters(unknown: JsonMapping, known: Sequence[str] = tuple(PARAMETERS)) -> None:
    for name in unknown:
        raise QueryError(
            f"no parameter {name!r}",
            expected=f"one of {', '.join(known)}",
            where="catalog",
            todo=did_you_mean(name, known, n=1, cutoff=0.5),
        )
