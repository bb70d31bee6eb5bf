"""Declarations of variables: description, unit, valid values and the meaning of "no value".

Declarations define the encoding in Zarr, the checks of `lake.validate()`, the attributes in xarray,
and the page *Variables* of the documentation. A declaration is stored with its array, so a lake can
be read and checked without the code that wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from qmri_lake import tissues
from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.label_bytes import labels_besides
from qmri_lake.core.text import counted
from qmri_lake.errors import VariableError, encodable
from qmri_lake.schema.groups import GROUPS, VOLUME_DIMS
from qmri_lake.schema.privacy import OWN_TABLE, Privacy

__all__ = [
    "FIXED_SIZES",
    "VOLUME_DIMS",
    "Coordinate",
    "StoredArray",
    "Variable",
    "decode_flags",
    "sizes_of",
]

EXAM_CHUNK = 4096
"""Number of exams in one chunk of a small array. A column of 47,078 exams has 12 chunks."""

FIXED_SIZES: Mapping[str, int] = MappingProxyType({"world": 4, "voxel": 4, "axis": 3})
"""Sizes of the dimensions that have the same size in every group and lake."""

_SPATIAL = frozenset({*VOLUME_DIMS, "azimuth", "polar"})

_FLOAT_FILL = "no value"
Flags = Mapping[str, int]
"""Values of a label or state, by name."""


class Encoding(Protocol):
    """Encoding of a stored array."""

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of all dimensions."""


class StoredArray(Protocol):
    """A stored Zarr array, from which a declaration is read back."""

    @property
    def attrs(self) -> MutableMapping[str, Any]:
        """Attributes."""

    @property
    def metadata(self) -> Encoding:
        """Encoding, with the names of the dimensions."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Data type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""

    @property
    def fill_value(self) -> Any:
        """Fill value."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Labels along a dimension, such as names or degrees, which are the same for all exams.

    They are stored once in the group, so that plain xarray can also select by them.
    """

    name: str
    dims: tuple[str, ...]
    values: tuple[object, ...]
    """Names or numbers. For two dims, the tuples are nested."""
    description: str
    unit: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes in xarray and in the store."""
        return {"long_name": self.description, **({"units": self.unit} if self.unit else {})}

    def as_variable(self) -> tuple[tuple[str, ...], Values, dict[str, str]]:
        """Return dims, values and attributes, the arguments of `xarray.Variable`."""
        return self.dims, np.asarray(self.values), self.attributes


@dataclass(frozen=True, slots=True)
class Variable:
    """The declaration of one array of a lake.

    Parameters
    ----------
    group : str
        Group of the lake that contains the array, for example ``"msme"``.
    name : str
        Name of the array.
    dims : tuple of str
        Dimensions after the group's first axis (``exam``, or ``visit`` in group ``visit``).
    dtype : str
        NumPy dtype name, or ``"string"``.
    description : str
        One line of prose that describes the values.
    unit : str
        Unit in the notation of CF (``"ms"``, ``"mm"``); empty for labels and counts.
    fill_meaning : str
        Meaning of the fill value: "no mask", "not measured" ...
    fill : optional
        Fill value. Default: NaN for floats, empty for strings, 255 for uint8, -1 for other
        integers, so that 0 never means "no value".
    valid_range : (low, high), optional
        Inclusive range of valid values, checked by ``lake.validate()``.
    flags : mapping of name to value, optional
        Names of the values of a label or state, stored as CF ``flag_values``/``flag_meanings``.
    step : str
        Name of the step that writes the array.
    sizes : mapping, optional
        Sizes of dimensions that only this variable has.
    coordinates : tuple of Coordinate
        Coordinates of the dimensions, stored in the same group.
    privacy : Privacy, optional
        What the values say about a person. Default: see `privacy_kind`.
    """

    group: str
    name: str
    dims: tuple[str, ...]
    dtype: str
    description: str
    unit: str = ""
    fill_meaning: str = _FLOAT_FILL
    fill: Any = None
    valid_range: tuple[float, float] | None = None
    flags: Flags | None = None
    step: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    coordinates: tuple[Coordinate, ...] = ()
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        if self.fill is None:
            object.__setattr__(self, "fill", _default_fill(self.dtype))
        if "__" in self.name or not self.name.isidentifier():
            raise VariableError(
                f"the name {self.name!r} is invalid",
                expected="a Python identifier without a double underscore",
                where=f"variable of group {self.group!r}",
                todo="A double underscore separates a name from its variant.",
            )

    @property
    def path(self) -> str:
        """Path in the lake, ``group/name``."""
        return f"{self.group}/{self.name}"

    @property
    def first_axis(self) -> str:
        """Name of the first dimension, which precedes `dims`."""
        return GROUPS.axis(self.group)

    @property
    def privacy_kind(self) -> Privacy:
        """The declared privacy kind. Default: free text for texts and dates, else a measurement.

        A pseudonymised lake has no free text, so that a text without a declared kind is removed.
        """
        if self.privacy is not None:
            return self.privacy
        if self.dtype == "string" or np.dtype(self.dtype).kind in "mM":
            return Privacy.TEXT
        return Privacy.OWN if self.step.startswith(OWN_TABLE) else Privacy.MEASUREMENT

    @property
    def bulk(self) -> bool:
        """Whether tasks write the array, one exam at a time; the committer writes all others."""
        return any(dim in _SPATIAL for dim in self.dims)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of one exam's values in a lake with these group sizes."""
        known = {**FIXED_SIZES, **sizes, **self.sizes}
        missing = [dim for dim in self.dims if dim not in known]
        if missing:
            raise VariableError(
                f"no size for dimension {missing[0]!r}",
                expected=f"sizes of {', '.join(self.dims)}",
                where=self.path,
                todo="Set it in Variable(sizes={...}), or ingest an image of this group first.",
            )
        return tuple(known[dim] for dim in self.dims)

    def chunks(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Return the shapes of an inner chunk and of a shard, including the first axis.

        Maps and small arrays have no shard.
        """
        shape = self.shape(sizes)
        if not self.bulk:
            return (EXAM_CHUNK, *shape), None
        if "slice" not in self.dims:  # maps: one chunk is one training image
            first = tuple(
                1 if dim == "bone" else n for dim, n in zip(self.dims, shape, strict=True)
            )
            return (1, *first), None
        thickness = GROUPS.inner_slices(self.group)
        axis = self.dims.index("slice")
        inner, shard = list(shape), list(shape)
        inner[axis] = min(thickness, shape[axis])
        # A shard consists of whole inner chunks, so it may extend beyond the array.
        shard[axis] = math.ceil(shape[axis] / inner[axis]) * inner[axis]
        return (1, *inner), (1, *shard)

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        """Return the number of bytes that the values of one exam occupy in memory."""
        itemsize = 64 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return math.prod(self.shape(sizes)) * itemsize

    def attributes(self) -> JsonObject:
        """Return the CF attributes that store the declaration."""
        attrs: JsonObject = {"long_name": self.description}
        if self.unit:
            attrs["units"] = self.unit
        if self.fill_meaning:
            attrs["fill_meaning"] = self.fill_meaning
        if self.valid_range is not None:
            attrs["valid_min"], attrs["valid_max"] = self.valid_range
        if self.flags is not None:
            attrs["flag_values"] = list(self.flags.values())
            attrs["flag_meanings"] = " ".join(self.flags)
        if self.step:
            attrs["step"] = self.step
        if self.privacy is not None:
            attrs["privacy"] = self.privacy.value
        return attrs

    @classmethod
    def from_array(cls, group: str, name: str, array: StoredArray) -> Variable:
        """Read the declaration back from a stored Zarr array."""
        attrs = dict(array.attrs)
        flags = None
        if "flag_values" in attrs:
            flags = dict(zip(attrs["flag_meanings"].split(), attrs["flag_values"], strict=True))
        bounds = (attrs["valid_min"], attrs["valid_max"]) if "valid_min" in attrs else None
        dims = tuple(array.metadata.dimension_names)[1:]
        dtype = "string" if array.dtype.kind in "TUO" else array.dtype.name
        return cls(
            group,
            name.partition("__")[0],
            dims,
            dtype,
            attrs.get("long_name", ""),
            attrs.get("units", ""),
            attrs.get("fill_meaning", ""),
            array.fill_value,
            bounds,
            flags,
            attrs.get("step", ""),
            dict(zip(dims, array.shape[1:], strict=True)),
            privacy=next((kind for kind in Privacy if kind == attrs.get("privacy")), None),
        )

    def check(self, values: Values, where: str) -> Values:
        """Return the `values` of one exam in the stored dtype of this variable, if they are valid.

        `where` names the exam in errors. Only "same_kind" casts of NumPy, and casts from bool, are
        made.

        Raises
        ------
        VariableError
            If the dims, the dtype or a value is invalid. A value is invalid if it is outside
            `valid_range`, not representable in the dtype, or a label without a name.
        """
        values = np.asarray(values)
        if values.ndim != len(self.dims):
            raise VariableError(
                f"{values.ndim} dimensions, shape {values.shape}",
                expected=f"({', '.join(self.dims)})",
                where=f"{self.path} of {where}",
            )
        if self.dtype == "string":
            return self._checked_text(values, where)
        dtype = np.dtype(self.dtype)
        if values.dtype != dtype and not (
            np.can_cast(values.dtype, dtype, "same_kind") or values.dtype == bool
        ):
            raise VariableError(
                f"dtype {values.dtype}", expected=self.dtype, where=f"{self.path} of {where}"
            )
        with np.errstate(over="ignore"):
            stored = values.astype(dtype, copy=False)
        if values.dtype != dtype:
            lost = stored != values if dtype.kind in "iu" else np.isinf(stored) & ~np.isinf(values)
            if lost.any():
                raise VariableError(
                    f"the value {values[lost][0]}",
                    expected=f"a value in the range of {self.dtype}",
                    where=f"{self.path} of {where}",
                )
        for fault in self.faults(stored):
            raise VariableError(fault, expected=self.expectation, where=f"{self.path} of {where}")
        return stored

    def _checked_text(self, values: Values, where: str) -> Values:
        words = values.astype(object)
        for word in words.flat:
            # A lone surrogate cannot be stored. It occurs in file names in another encoding.
            if not isinstance(word, str) or word != encodable(word):
                raise VariableError(
                    repr(word), expected="valid Unicode text", where=f"{self.path} of {where}"
                )
        return words

    def faults(self, values: Values) -> Iterator[str]:
        """Yield a description of each fault: values out of range, or labels without a name."""
        if values.dtype.kind not in "fiub" or not values.size:
            return
        if self.flags is not None:
            allowed = [*self.flags.values(), self.fill]
            if values.dtype == np.uint8:
                unnamed = labels_besides(values, allowed)
            else:
                unnamed = np.setdiff1d(values, allowed).tolist()
            if unnamed:
                yield f"value {unnamed[0]} without a name"
        elif self.valid_range is not None:
            low, high = self.valid_range
            with np.errstate(invalid="ignore"):
                outside = (values < low) | (values > high)
            if not isinstance(self.fill, float):
                outside &= values != self.fill
            if outside.any():
                found = counted(int(outside.sum()), "value")
                yield f"{found} outside the range, such as {values[outside][0]}"

    @property
    def expectation(self) -> str:
        """The valid values, for error messages."""
        if self.flags is not None:
            return ", ".join(f"{value} {name}" for name, value in self.flags.items())
        return f"{self.valid_range} {self.unit}".strip()


def _default_fill(dtype: str) -> Any:
    if dtype == "string":
        return ""
    kind = np.dtype(dtype).kind
    if kind == "f":
        return float("nan")
    return tissues.NO_MASK if dtype == "uint8" else -1


def with_variant(name: str, variant: str) -> str:
    """Return the name of a variable or step in a variant, such as ``t2__epg``; "": no variant."""
    return f"{name}__{variant}" if variant else name


def sizes_of(group: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the sizes of a group's image by dimension, such as slice, row and column."""
    return dict(zip(GROUPS.image_dims(group), shape, strict=True))


def decode_flags(values: Values, flags: Flags) -> Values:
    """Return the names of flag values as an object array; a value without a name is None."""
    names = {value: name for name, value in flags.items()}
    unique, inverse = np.unique(values, return_inverse=True)
    return np.array([names.get(v.item()) for v in unique], dtype=object)[inverse]
