"""The arrays of one exam for an export, with their declaration, geometry and lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import LPS_TO_RAS, Affine, checked_affine
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.version import __version__
from qmri_lake.execution.exam_io import read_exam
from qmri_lake.lake.derived_products import status_of
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.groups import PARAMETERS
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
from qmri_lake.store.arrays import Node
from qmri_lake.store.runs import read_run

__all__ = ["ExamContent", "ExportedArray", "is_volume", "lps_to_ras", "stored_variable"]

_RECORDED = ("step", "parameters", "version", "code")
"""Entries of the record of a run that an export repeats. Others can name patients."""


@dataclass(frozen=True, eq=False)
class ExportedArray:
    """One variable of one exam, cropped to the extent of the exam."""

    path: str
    """Path in the lake, such as ``msme/t2__epg``."""
    variable: Variable
    """Stored declaration; its `name` has no variant."""
    values: Values
    affine: Affine | None
    """(4, 4) voxel (slice, row, column) to LPS mm; None if this is no volume."""
    times: NDArray[np.float64] | None
    """Times of the images of a series [ms], along `image_axis`; None if there is one volume."""
    lineage: JsonObject
    """Step, run, parameters, code and versions that made the values; the lake and its snapshot."""
    acquisition: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the acquisition of an image that the lake stores; see `PARAMETERS`."""

    @property
    def name(self) -> str:
        """Name in the group, with the variant: ``t2__epg``."""
        return self.path.partition("/")[2]

    @property
    def image_axis(self) -> str:
        """Dimension of the images of a series, such as ``echo``; "" if there is one volume."""
        return self.variable.dims[0] if len(self.variable.dims) > len(VOLUME_DIMS) else ""

    @property
    def is_labels(self) -> bool:
        """Whether the values are labels with names."""
        return self.variable.flags is not None

    @property
    def ras_affine(self) -> Affine:
        """(4, 4) matrix from (column, row, slice) to RAS mm, the axis order of most formats."""
        assert self.affine is not None
        return lps_to_ras(self.affine)[:, [2, 1, 0, 3]]

    @property
    def labels(self) -> dict[int, str]:
        """Names of the label values; the fill value, if it occurs, has the name ``no mask``."""
        names = {int(value): name for name, value in (self.variable.flags or {}).items()}
        fill = self.variable.fill
        if self.is_labels and int(fill) not in names and (self.values == fill).any():
            names[int(fill)] = self.variable.fill_meaning or "no value"
        return names

    def metadata(self) -> JsonObject:
        """Return description, unit, labels, times and lineage, as JSON types."""
        variable = self.variable
        about: JsonObject = {"variable": self.path, "description": variable.description}
        if variable.unit:
            about["units"] = variable.unit
        if self.is_labels:
            about["labels"] = {str(value): name for value, name in self.labels.items()}
        elif variable.fill_meaning:
            about["missing_value"] = {_as_text(variable.fill): variable.fill_meaning}
        if variable.valid_range is not None:
            about["valid_range"] = list(variable.valid_range)
        if self.times is not None:
            about[f"{self.image_axis}_times_ms"] = self.times.tolist()
        return {**about, "lineage": self.lineage}


class ExamContent:
    """The arrays of one exam of a lake, which are read one at a time by `read`.

    Parameters
    ----------
    root : Node
        Root group of the lake.
    row : int
        Position on the exam axis.
    location, snapshot : str
        The lake and its commit, for the lineage.
    synthetic : bool
        Whether the exam is marked as synthetic.
    """

    def __init__(
        self, root: Node, row: int, *, location: str, snapshot: str, synthetic: bool
    ) -> None:
        self._root, self._row = root, row
        self._lake = {"lake": PurePosixPath(location).name, "lake_snapshot": snapshot}
        self.synthetic = synthetic
        keys = {name: root[name][row].item() for name in ("exam", *KEYS)}
        self.exam, self.knee = str(keys["exam"]), str(keys["knee"])
        self.patient, self.timepoint = int(keys["patient"]), int(keys["timepoint"])

    def read(self, path: str) -> ExportedArray:
        """Read one variable of the exam.

        Raises
        ------
        UnreadableChunkError
            If a chunk is damaged.
        InputError
            If a volume has no valid affine.
        """
        group, _, name = path.partition("/")
        variable = stored_variable(self._root, path)
        found = read_exam(self._root, group, [name], self._row)[name]
        affine = None
        if is_volume(variable):
            affine = checked_affine(
                self.small(group, "affine"), f"{path} of {self.exam}", square=False
            )
        times, axis = None, variable.dims[0] if variable.dims else ""
        if is_volume(variable) and f"{group}/{axis}_time" in self._root:
            stored = self.small(group, f"{axis}_time")
            times = np.asarray(stored[: found.sizes[axis]], np.float64)
        acquisition = self._acquisition(group) if variable.name == "image" else {}
        lineage = self.lineage(path)
        return ExportedArray(path, variable, found.values, affine, times, lineage, acquisition)

    def _acquisition(self, group: str) -> dict[str, float]:
        """Return the known parameters of the acquisition of a series."""
        stored = [name for name in PARAMETERS if f"{group}/{name}" in self._root]
        values = {name: float(self.small(group, name)) for name in stored}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def small(self, group: str, name: str) -> Any:
        """Return the small values of the exam in an array of a group, such as its affine."""
        return self._root[f"{group}/{name}"][self._row]

    def is_label_map(self, path: str) -> bool:
        """Return whether a variable is a volume of labels with a background."""
        return "background" in (stored_variable(self._root, path).flags or {})

    def coordinates(self, path: str) -> dict[str, tuple[tuple[str, ...], Values, JsonObject]]:
        """Return the labels along the dimensions of a variable, with dims and attributes."""
        group = path.partition("/")[0]
        dims = set(self._root[path].metadata.dimension_names[1:])
        found = {}
        for other, array in self._root[group].arrays():
            own = tuple(array.metadata.dimension_names)
            if own and own[0] != "exam" and set(own) <= dims:
                values = np.asarray(array[...])
                values = values.astype(object) if values.dtype.kind == "T" else values
                found[other] = (own, values, dict(array.attrs))
        return found

    def lineage(self, path: str) -> JsonObject:
        """Return the step, run and parameters that made a variable of the exam."""
        step = status_of(path, stored_variable(self._root, path))
        status = f"status/{step}/run"
        number = int(self._root[status][self._row]) if step and status in self._root else -1
        record = read_run(self._root, number)
        about: JsonObject = {**self._lake, "exporter": f"qmri_lake {__version__}"}
        if number >= 0:
            about["run"] = number
        if "snapshot" in record:
            about["run_began_at"] = record["snapshot"]
        return {**about, **{name: record[name] for name in _RECORDED if name in record}}

    def header(self) -> JsonObject:
        """Return what every exported file says about the exam: its key, and whether it is real."""
        return {"exam": self.exam, **({"synthetic": True} if self.synthetic else {})}


def stored_variable(root: Node, path: str) -> Variable:
    """Return the declaration of an array as it is stored in a lake."""
    group, _, name = path.partition("/")
    return Variable.from_array(group, name, root[path])


def is_volume(variable: Variable) -> bool:
    """Return whether a variable is on the voxel grid of its group."""
    return variable.dims[-3:] == VOLUME_DIMS


def lps_to_ras(affine: Affine) -> Affine:
    """Return an affine to RAS for one to LPS, and the reverse."""
    return np.asarray(LPS_TO_RAS @ affine, np.float64)


def _as_text(fill: object) -> str:
    return "NaN" if isinstance(fill, float) and np.isnan(fill) else str(fill)
