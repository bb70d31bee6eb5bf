"""Search of all objects of a lake for traces of a patient."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]

from qmri_lake.core.compressed_parts import expand
from qmri_lake.core.patient_traces import PatientTraces
from qmri_lake.core.text import counted, format_bytes
from qmri_lake.store.location import is_local, local_path

__all__ = ["TraceSearch", "search_objects"]

_THREADS = 4
"""Number of objects that are read at the same time."""
_PORTION = 256
"""Number of objects that wait for a thread."""


@dataclass(frozen=True, slots=True)
class TraceSearch:
    """Result of a search. Print it to see it."""

    objects: int
    """Number of objects that were read."""
    stored: int
    """Total size of these objects in bytes."""
    decompressed: int
    """Number of decompressed bytes, which were also searched."""
    found: tuple[str, ...]
    """Names of the objects that contain a trace."""
    unsearched: str = ""
    """Why the objects could not be read; empty if they were."""

    def __str__(self) -> str:
        if self.unsearched:
            return f"objects not searched: {self.unsearched}"
        return (
            f"{len(self.found):,} of {counted(self.objects, 'object')} "
            f"({format_bytes(self.stored)}; {format_bytes(self.decompressed)} decompressed) "
            f"{'contains' if len(self.found) == 1 else 'contain'} the number of the patient "
            "or a key of an exam"
        )


def search_objects(url: str, traces: PatientTraces) -> TraceSearch:
    """Read every object of a lake, and search its name, its bytes and its decompressed parts.

    Objects of an object store are read with fsspec, which needs the package of the store, such as
    s3fs, and credentials from the environment.
    """
    try:
        files, folder = _file_system(url)
    except ImportError as error:
        return TraceSearch(0, 0, 0, (), unsearched=str(error))
    files.invalidate_cache()
    names = sorted(files.find(folder))
    found, stored, decompressed = [], 0, 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(names), _PORTION):
            portion = names[start : start + _PORTION]
            results = pool.map(lambda name: _search(files, name, folder, traces), portion)
            for name, (is_trace, read, expanded) in zip(portion, results, strict=True):
                stored, decompressed = stored + read, decompressed + expanded
                if is_trace:
                    found.append(_short(name, folder))
    return TraceSearch(len(names), stored, decompressed, tuple(found))


def _file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if is_local(url):
        return fsspec.filesystem("file"), str(local_path(url))
    parts = urlsplit(url)
    account, _, place = parts.netloc.rpartition("@")
    options = {"account_name": account} if account else {}  # Azure
    return fsspec.filesystem(parts.scheme, **options), place + parts.path.rstrip("/")


def _search(
    files: fsspec.AbstractFileSystem, name: str, folder: str, traces: PatientTraces
) -> tuple[bool, int, int]:
    """Return whether an object has a trace, its size, and the number of decompressed bytes."""
    found = traces.in_text(_short(name, folder))
    try:
        data = files.cat_file(name)
    except FileNotFoundError:  # removed since it was listed
        return found, 0, 0
    decompressed = 0
    for part in expand(data):
        decompressed += len(part.data) * part.compressed
        found = found or traces.in_part(part)
    return found, len(data), decompressed


def _short(name: str, folder: str) -> str:
    return name.removeprefix(folder).lstrip("/")
