"""Every variable of a lake, declared once: what it is, in which unit, and what "no value" means.

One registry drives the encoding in Zarr, the checks of `lake.validate()`, the attributes that a
colleague sees in xarray, and the page *Variables* of the documentation. A declaration is stored
with the array it describes, so a lake can be read and checked without the code that filled it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from qmri_lake import tissues
from qmri_lake.errors import NotFoundError, VariableError, printable

__all__ = [
    "FIXED_SIZES", "REGISTRY", "Coordinate", "Registry", "Variable", "decode_flags", "sizes_of",
]  # fmt: skip

EXAM_CHUNK = 4096
"""Exams in one chunk of a small array: a column of 47,078 exams is read in 12 chunks."""

FIXED_SIZES: Mapping[str, int] = MappingProxyType({"world": 4, "voxel": 4, "axis": 3})
"""Dimensions that have one size everywhere."""

_SPATIAL = frozenset({"slice", "row", "column", "azimuth", "polar"})
_INNER_SLICES = {"dess": 16, "msme": 4}

_FLOAT_FILL = "no value"
Flags = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Coordinate:
    """What the places along a dimension are called, the same for all exams: names, or degrees.

    It is stored once in the group, so that stock xarray selects by it too.
    """

    name: str
    dims: tuple[str, ...]
    values: tuple[Any, ...]
    """Names or numbers; nested tuples for two dims."""
    description: str
    unit: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """What xarray and the store say of it."""
        return {"long_name": self.description, **({"units": self.unit} if self.unit else {})}

    def as_variable(self) -> tuple[tuple[str, ...], np.ndarray[Any, Any], dict[str, str]]:
        """Return dims, values and attributes, as xarray takes them."""
        return self.dims, np.asarray(self.values), self.attributes


@dataclass(frozen=True, slots=True)
class Variable:
    """The declaration of one array of a lake.

    Parameters
    ----------
    group : str
        Group of the lake that holds it, for example ``"msme"``.
    name : str
        Name of the array.
    dims : tuple of str
        Dimensions after the group's first axis (``exam``, or ``visit`` in group ``visit``).
    dtype : str
        NumPy dtype name, or ``"string"``.
    description : str
        One line of prose.
    unit : str
        Unit as in CF (``"ms"``, ``"mm"``); empty for labels and counts.
    fill_meaning : str
        What the fill value says: "no mask", "not measured" ...
    fill : optional
        Fill value. Default: NaN for floats, empty for strings, 255 for uint8, -1 for other
        integers, so that 0 never stands for "no value".
    valid_range : (low, high), optional
        Inclusive range of valid values, checked by ``lake.validate()``.
    flags : mapping of name to value, optional
        Names of the values of a label or state, stored as CF ``flag_values``/``flag_meanings``.
    step : str
        The step that produces it.
    sizes : mapping, optional
        Sizes of dimensions that only this variable has.
    coordinates : tuple of Coordinate
        Of its dimensions, stored beside it.
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

    def __post_init__(self) -> None:
        if self.fill is None:
            object.__setattr__(self, "fill", _default_fill(self.dtype))
        if "__" in self.name or not self.name.isidentifier():
            raise VariableError(
                f"the name {self.name!r}",
                expected="a Python identifier without a double underscore",
                where=f"variable of group {self.group!r}",
                todo="A double underscore separates a name from its variant.",
            )

    @property
    def path(self) -> str:
        """``group/name``."""
        return f"{self.group}/{self.name}"

    @property
    def first_axis(self) -> str:
        """The axis before `dims`."""
        return "visit" if self.group == "visit" else "exam"

    @property
    def bulk(self) -> bool:
        """Whether tasks write it, an exam at a time; the rest is written by the committer."""
        return any(dim in _SPATIAL for dim in self.dims)

    @property
    def optional_mask(self) -> bool:
        """Whether it is a label array, whose 255 means "never segmented"."""
        return self.flags is not None and self.fill == tissues.NO_MASK and self.bulk

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape for one exam in a lake with these group sizes."""
        known = {**FIXED_SIZES, **sizes, **self.sizes}
        missing = [dim for dim in self.dims if dim not in known]
        if missing:
            raise VariableError(
                f"no size for dimension {missing[0]!r}",
                expected=f"sizes of {', '.join(self.dims)}",
                where=self.path,
                todo="Give it in Variable(sizes={...}), or ingest an image of this group first.",
            )
        return tuple(known[dim] for dim in self.dims)

    def chunks(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Inner chunk and shard shapes, first axis included; no shard for maps and small arrays."""
        shape = self.shape(sizes)
        if not self.bulk:
            return (EXAM_CHUNK, *shape), None
        if "slice" not in self.dims:  # maps: one read is one training image
            first = tuple(
                1 if dim == "bone" else n for dim, n in zip(self.dims, shape, strict=True)
            )
            return (1, *first), None
        thickness = _INNER_SLICES.get(self.group, 16)
        axis = self.dims.index("slice")
        inner, shard = list(shape), list(shape)
        inner[axis] = min(thickness, shape[axis])
        # A shard is whole inner chunks; it may reach beyond the array.
        shard[axis] = math.ceil(shape[axis] / inner[axis]) * inner[axis]
        return (1, *inner), (1, *shard)

    def nbytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes of one exam in memory."""
        itemsize = 64 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return math.prod(self.shape(sizes)) * itemsize

    def attributes(self) -> dict[str, Any]:
        """CF attributes that carry the declaration into the store."""
        attrs: dict[str, Any] = {"long_name": self.description}
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
        return attrs

    @classmethod
    def from_array(cls, group: str, name: str, array: Any) -> Variable:
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
        )

    def check(self, values: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
        """Return one exam's `values` as this variable stores them, or say what doesn't fit.

        Only safe casts are made; a value outside `valid_range`, one that the type can't hold, or a
        label without a name is an error here, not something that a reader finds years later.
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
        lost = stored != values if dtype.kind in "iu" else np.isinf(stored) & ~np.isinf(values)
        if lost.any():
            raise VariableError(
                f"the value {values[lost][0]}",
                expected=f"what {self.dtype} can hold",
                where=f"{self.path} of {where}",
            )
        for fault in self.faults(stored):
            raise VariableError(fault, expected=self.expectation, where=f"{self.path} of {where}")
        return stored

    def _checked_text(self, values: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
        words = values.astype(object)
        for word in words.flat:
            # A lone surrogate, as of a file name in another encoding, can't be stored.
            if not isinstance(word, str) or word != printable(word):
                raise VariableError(
                    repr(word), expected="valid Unicode text", where=f"{self.path} of {where}"
                )
        return words

    def faults(self, values: np.ndarray[Any, Any]) -> Iterator[str]:
        """Yield what is wrong with stored values: out of range, or a label without a name."""
        if values.dtype.kind not in "fiub" or not values.size:
            return
        if self.flags is not None:
            allowed = [*self.flags.values(), self.fill]
            strange = np.setdiff1d(values, allowed)
            if strange.size:
                yield f"value {strange[0]} that has no name"
        elif self.valid_range is not None:
            low, high = self.valid_range
            with np.errstate(invalid="ignore"):
                outside = (values < low) | (values > high)
            if not isinstance(self.fill, float):
                outside &= values != self.fill
            if outside.any():
                yield f"{int(outside.sum())} values outside the range, such as {values[outside][0]}"

    @property
    def expectation(self) -> str:
        """What valid values are, in words."""
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


class Registry:
    """The declarations known to this process, by ``group/name``."""

    def __init__(self, variables: Iterable[Variable] = ()) -> None:
        self._known: dict[str, Variable] = {}
        for variable in variables:
            self.add(variable)

    def add(self, variable: Variable) -> Variable:
        """Declare a variable; declaring the same again changes nothing, another one is an error."""
        known = self._known.setdefault(variable.path, variable)
        if replace(known, step="") != replace(variable, step="") and repr(known) != repr(variable):
            raise VariableError(
                f"a second declaration of {variable.path}",
                expected="the same as the first",
                todo="Choose another name, or use a variant.",
            )
        return known

    def __getitem__(self, path: str) -> Variable:
        if path not in self._known:
            raise NotFoundError(
                f"no variable {path!r}", expected=f"one of {', '.join(sorted(self._known))}"
            )
        return self._known[path]

    def __contains__(self, path: object) -> bool:
        return path in self._known

    def __iter__(self) -> Iterator[Variable]:
        return iter(self._known.values())

    def group(self, name: str) -> tuple[Variable, ...]:
        """All variables of one group, in the order of their declaration."""
        return tuple(v for v in self if v.group == name)

    def made_by(self, step: str) -> tuple[Variable, ...]:
        """All variables that a step produces."""
        return tuple(v for v in self if v.step == step)


def with_variant(name: str, variant: str) -> str:
    """Return the name of a product, or of its step, in a variant: ``t2__epg``; "" is none."""
    return f"{name}__{variant}" if variant else name


def sizes_of(group: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Name the sizes of an image of a group: (slice, row, column), msme with echo first."""
    dims = ("echo", "slice", "row", "column") if group == "msme" else ("slice", "row", "column")
    return dict(zip(dims, shape, strict=True))


def decode_flags(values: np.ndarray[Any, Any], flags: Flags) -> np.ndarray[Any, Any]:
    """Return the names of flag values as an object array; a value without a name is None."""
    names = {value: name for name, value in flags.items()}
    unique, inverse = np.unique(values, return_inverse=True)
    return np.array([names.get(v.item()) for v in unique], dtype=object)[inverse]


def _image(group: str, dims: tuple[str, ...], words: str) -> list[Variable]:
    step = f"ingest_{group}"
    return [
        Variable(group, "image", dims, "float32", f"{words} signal, rescaled as the scanner says",
                 fill_meaning="beyond the image's extent", step=step),
        Variable(group, "affine", ("world", "voxel"), "float64",
                 "Voxel index (slice, row, column, 1) to LPS world coordinates, voxel centres",
                 unit="mm", fill_meaning="no image", step=step),
        Variable(group, "extent", ("axis",), "int16",
                 "True number of slices, rows and columns; beyond it is fill",
                 fill_meaning="no image", valid_range=(1, 4096), step=step),
        Variable(group, "series_uid", (), "string", "DICOM SeriesInstanceUID of the source",
                 fill_meaning="no image", step=step),
        Variable(group, "digest", (), "string",
                 "SHA-256 of the source's pixels and geometry, independent of file order",
                 fill_meaning="no image", step=step),
    ]  # fmt: skip


_VOLUME = ("slice", "row", "column")


def _labels(group: str, name: str, words: str, flags: Flags, step: str) -> Variable:
    return Variable(group, name, _VOLUME, "uint8", words,
                    fill_meaning="no mask", flags=flags, step=step)  # fmt: skip


def _of_the_ensemble(name: str, step: str) -> list[Variable]:
    """What is kept beside an ensemble's labels."""
    return [
        Variable("dess", f"{name}_uncertainty", _VOLUME, "float32",
                 f"Share of the ensemble's members whose own label is not that of `{name}` before "
                 "small pieces are removed", "",
                 "a single member, or not segmented by an ensemble", valid_range=(0, 1),
                 step=step),
        Variable("dess", f"{name}_removed", (), "int32",
                 f"Voxels of `{name}` that were small pieces, and became background", "",
                 "nothing was looked for", valid_range=(0, 1_000_000_000), step=step),
    ]  # fmt: skip


_PLACED_BY = {"scanner": 0, "refined": 1, "not_improved": 2, "implausible": 3}
_SEX = {"male": 1, "female": 2}
_YES_NO = {"no": 0, "yes": 1}


def _clinical(group: str) -> list[Variable]:
    """Columns of a visit, and of its join on the exams."""
    step = "ingest_clinical"

    def column(name: str, description: str, unit: str = "", bounds: Any = None) -> Variable:
        return Variable(group, name, (), "float32", description, unit,
                        "not measured", valid_range=bounds, step=step)  # fmt: skip

    def flag(name: str, description: str, flags: Flags) -> Variable:
        return Variable(group, name, (), "uint8", description,
                        fill_meaning="not known", flags=flags, step=step)  # fmt: skip

    return [
        column("age", "Age at the visit: age at enrolment + days / 365.25", "a", (0, 120)),
        flag("sex", "Sex", _SEX),
        column("bmi", "Body mass index, last measured at or before the visit", "kg m-2", (8, 90)),
        column("days", "Days from enrolment to the visit", "d", (-400, 6000)),
        column("kl", "Kellgren-Lawrence grade of the knee", "", (0, 4)),
        column("womac_pain", "WOMAC pain score of the knee", "", (0, 20)),
        column("koos_pain", "KOOS pain score of the knee, 100 is no pain", "", (0, 100)),
        flag("pain_most_days_12m",
             "Pain on more than half the days of a month, past 12 months (KPR12CV)", _YES_NO),
        flag("pain_any_12m", "Any pain, past 12 months (KPNR12)", _YES_NO),
        column("pain_months_12m",
               "Months with pain on more than half the days, past 12 months (KPNR12M)", "",
               (0, 12)),
        flag("pain_frequent_30d",
             "Pain on more than half the days, past 30 days (KPR30CV)", _YES_NO),
        flag("replaced", "Whether the knee had been replaced by this visit", _YES_NO),
    ]  # fmt: skip


REGISTRY = Registry(
    [
        *_image("dess", _VOLUME, "DESS"),
        _labels("dess", "bone", "Bone labels", tissues.BONE, "segment_bones"),
        *_of_the_ensemble("bone", "segment_bones"),
        _labels("dess", "cartilage", "Cartilage and meniscus labels", tissues.CARTILAGE,
                "segment_cartilage"),
        *_of_the_ensemble("cartilage", "segment_cartilage"),
        _labels("dess", "reference_bone", "Bone labels by people, imported: networks learn from "
                "them and are judged by them", tissues.BONE, "import_reference_bone"),
        _labels("dess", "reference_cartilage", "Cartilage and meniscus labels by people, likewise",
                tissues.CARTILAGE, "import_reference_cartilage"),
        *_image("msme", ("echo", *_VOLUME), "Multi-echo spin-echo (MSME)"),
        Variable("msme", "echo_time", ("echo",), "float64", "Echo time", "ms",
                 "no such echo", valid_range=(0, 1000), step="ingest_msme"),
        Variable("msme", "dess_to_msme", ("world", "voxel"), "float64",
                 "Rigid transform x_msme = T x_dess in LPS world coordinates", "mm",
                 "not registered", step="register"),
        Variable("msme", "mutual_information_before", (), "float64",
                 "Mutual information of DESS and mean echo near cartilage, in the scanner's "
                 "geometry", "nat", "not computed", step="register"),
        Variable("msme", "mutual_information_after", (), "float64",
                 "The same with `dess_to_msme`", "nat", "not computed", step="register"),
        Variable("msme", "registration_status", (), "uint8", "Where `dess_to_msme` comes from",
                 fill_meaning="not registered", flags=_PLACED_BY, step="register"),
        _labels("msme", "cartilage", "Cartilage and meniscus labels on the MSME grid",
                tissues.CARTILAGE, "register"),
        Variable("visit", "patient", (), "int64", "Patient number", step="ingest_clinical"),
        Variable("visit", "timepoint", (), "int16", "Months after enrolment, nominal", "",
                 step="ingest_clinical"),
        Variable("visit", "knee", (), "string", "Side of the knee: left or right",
                 step="ingest_clinical"),
        *_clinical("visit"),
        *_clinical("clinical"),
        Variable("clinical", "made_from", (), "uint8", "What the exam was made from: files that "
                 "were delivered, or the truth of a synthetic knee (no image, no network, no fit)",
                 fill=0, fill_meaning="delivered", flags={"delivered": 0, "truth": 1},
                 step="ingest_truth"),
    ]
)  # fmt: skip
"""The declarations of qmri_lake itself; steps add theirs when they are defined."""
