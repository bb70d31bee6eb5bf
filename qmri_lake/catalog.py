"""Catalogs: the groups of a lake as intake entries; the only module that imports intake.

A catalog is a YAML file. It names the classes below by module path, so plain
``intake.open_catalog(path)`` reads it; `open_catalog` adds error messages that help.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
import yaml  # type: ignore[import-untyped]
from intake.readers.datatypes import BaseData
from intake.readers.entry import Catalog
from intake.readers.readers import BaseReader
from intake.readers.user_parameters import BaseUserParameter

from qmri_lake.errors import NotALakeError, NotFoundError, QueryError, Reason, did_you_mean
from qmri_lake.lake import Lake, open_lake
from qmri_lake.storage import is_local

__all__ = ["LakeCatalog", "LakeData", "LakeReader", "Text", "open_catalog", "write_catalog"]

PARAMETERS: Mapping[str, str] = {
    "query": "Which exams, such as \"knee == 'right' and kl >= 2\"; empty: all",
    "lake_ref": "A tag, branch or snapshot of the lake; empty: its newest commit",
}
"""What a user of a catalog may set."""

_PROSE = {
    "clinical": "Age, sex, body mass index, grades and scores of each exam",
    "visit": "The same for every visit of every patient, with or without an MRI",
    "dess": "DESS images, their geometry and labels",
    "msme": "Multi-echo spin-echo images, their geometry, labels and T2 maps",
    "sphere": "Spherical maps of bone shape, cartilage thickness and T2",
    "region": "Thickness, volume and T2 of cartilage in regions",
    "prediction": "Probabilities of osteoarthritis and pain, by strategy and bone",
}


class LakeData(BaseData):
    """Where a lake is.

    Parameters
    ----------
    url : str
        As in `qmri_lake.open_lake`, or below ``{CATALOG_DIR}``.
    metadata : mapping, optional
        ``absent`` says what to do where there is no lake yet.
    """

    def __init__(self, url: str, metadata: dict[str, Any] | None = None, **unknown: Any) -> None:
        _refuse(unknown)
        self.url = _resolved(url)
        super().__init__(metadata)


class LakeReader(BaseReader):
    """Reads a group of a lake, or several joined, as `qmri_lake.Lake.load` does."""

    implements: set[Any] = {LakeData}  # noqa: RUF012
    output_instance = "xarray:Dataset"

    def _read(
        self,
        data: LakeData,
        *,
        group: str | Sequence[str],
        cohort: Any = "",
        ref: Any = "",
        query: Any = None,
        lake_ref: Any = None,
        **unknown: Any,
    ) -> xr.Dataset:
        # A catalog fills cohort and ref from its parameters query and lake_ref: intake drops an
        # argument that is named as a parameter is. Here the latter are those given to read().
        _refuse(unknown)
        chosen = _text("query", cohort if query is None else query)
        try:
            lake = open_lake(
                data.url, ref=_text("lake_ref", ref if lake_ref is None else lake_ref), mode="r"
            )
        except NotALakeError as error:
            todo = data.metadata.get("absent", error.todo)
            raise NotALakeError(
                error.found, expected=error.expected, where=data.url, todo=todo, reason=error.reason
            ) from error
        return lake.load(group, chosen)


class Text(BaseUserParameter):
    """A parameter whose value is taken as it is written.

    intake fills templates in the values of its own parameters: ``func(os:system)`` would import a
    module. Inside a tuple a text is out of their reach, until the reader takes it out.
    """

    def coerce(self, value: Any) -> Any:
        """Wrap a value that the user gave."""
        return value if isinstance(value, tuple) else (value,)


class _NoEntryError(NotFoundError, AttributeError):
    """No such entry: a KeyError for ``cat[name]``, an AttributeError for ``cat.name``."""


class LakeCatalog(Catalog):
    """An intake catalog that says what there is when a name is wrong; see `open_catalog`."""

    def __call__(self, **parameters: Any) -> LakeCatalog:
        """Return a copy with parameters set, such as ``query`` and ``lake_ref``."""
        known = [n for n, p in self.user_parameters.items() if isinstance(p, BaseUserParameter)]
        _refuse({name: v for name, v in parameters.items() if name not in known}, known)
        return _as_ours(self, {**self._up_overrides, **parameters})

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
        # copy and pickle ask before there is a dictionary of entries.
        if name.startswith("_") or "aliases" not in self.__dict__:
            raise AttributeError(name)
        return self[name]


def open_catalog(path: str | os.PathLike[str]) -> LakeCatalog:
    """Open a catalog, with error messages that intake's own class has no place for.

    ``intake.open_catalog(path)`` reads the same file and gives the same data. Only there, a wrong
    name of an entry is a bare ``AttributeError``, and a wrong name of a parameter is noticed when
    an entry is asked for.

    Parameters
    ----------
    path : str or path
        A YAML file, or its URL.

    Raises
    ------
    FileNotFoundError
        No such file.
    """
    return _as_ours(Catalog.from_yaml_file(os.fspath(path)), {})


def _as_ours(cat: Any, parameters: dict[str, Any]) -> LakeCatalog:
    return LakeCatalog(
        entries=cat.entries,
        aliases=cat.aliases,
        data=cat.data,
        user_parameters=cat.user_parameters,
        parameter_overrides=parameters,
        metadata=cat.metadata,
    )


def write_catalog(lake: Lake | str | os.PathLike[str], path: str | Path | None = None) -> Path:
    """Write a catalog of a lake: one entry for each group that it has.

    Parameters
    ----------
    lake : Lake, or its URL or path
        Whatever its `ref`, the catalog opens the newest commit unless asked for another.
    path : path, optional
        The YAML file. Default: beside a local lake, ``oai.yaml`` for ``oai.lake``. A lake below
        the file's folder is named relative to it, so that both can move together.

    Returns
    -------
    Path
        The file, which is replaced where it exists.

    Raises
    ------
    NotALakeError
        There is no lake.
    """
    url = _resolved(lake.location if isinstance(lake, Lake) else os.fspath(lake))
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


def _content(url: str, groups: Sequence[str]) -> dict[str, Any]:
    """Return what the YAML file holds."""
    asked = {"cohort": "{query}", "ref": "{lake_ref}"}
    return {
        "version": 2,
        "metadata": {},
        # intake lists what has an alias, and nothing else.
        "aliases": {group: group for group in groups},
        "data": {
            "lake": {"datatype": f"{__name__}:LakeData", "kwargs": {"url": url}, "metadata": {},
                     "user_parameters": {}},
        },
        "entries": {
            group: {
                "reader": f"{__name__}:LakeReader",
                "kwargs": {"data": "{data(lake)}", "group": group, **asked},
                "metadata": {"description": _PROSE.get(group, f"Group {group} of the lake")},
                "output_instance": LakeReader.output_instance,
                "user_parameters": {},
            }
            for group in groups
        },
        "user_parameters": {
            name: {"cls": f"{__name__}:Text", "default": "", "description": prose}
            for name, prose in PARAMETERS.items()
        },
    }  # fmt: skip


def _resolved(url: str) -> str:
    """Return a plain path, or a URL without ``..``: ``{CATALOG_DIR}/../x`` has both to undo.

    intake makes ``file://`` URLs without quoting, so a path with ``#`` or ``%`` survives only this.
    """
    if not isinstance(url, str) or not url:
        raise NotALakeError(
            "no URL of the lake",
            expected="a folder, s3://, gs:// or az://account@container/",
            where="catalog",
            todo="Write it into the catalog, under data / lake / kwargs / url.",
            reason=Reason.NOT_A_LAKE,
        )
    scheme, found, path = url.rpartition("://")
    if not found or scheme == "file":
        return os.path.normpath(path)
    return f"{scheme}://{posixpath.normpath(path)}"


def _text(name: str, value: Any) -> str | None:
    """Unwrap a parameter (`Text`); empty is None."""
    if isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    if value is not None and not isinstance(value, str):
        raise QueryError(
            f"{name}={value!r}", expected=f"a text: {PARAMETERS[name]}", where="catalog"
        )
    return value or None


def _refuse(unknown: Mapping[str, Any], known: Sequence[str] = tuple(PARAMETERS)) -> None:
    for name in unknown:
        raise QueryError(
            f"no parameter {name!r}",
            expected=f"one of {', '.join(known)}",
            where="catalog",
            todo=did_you_mean(name, known, n=1, cutoff=0.5),
        )
