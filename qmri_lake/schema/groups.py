"""The groups of a lake: their order, descriptions, and the layout of image series.

This is the only list of groups. The order of groups, catalogs, the page *Variables* of the
documentation, ingest, validation and the sizes of a profile all use it. To add a kind of series,
add a `Group` with `dims` here, or call `qmri_lake.schema.builtin.declare_series` in the module of a
step.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from qmri_lake.errors import VariableError

__all__ = ["GROUPS", "PARAMETERS", "PROFILES", "VOLUME_DIMS", "Group", "GroupRegistry"]

VOLUME_DIMS = ("slice", "row", "column")
"""Dimensions of a volume."""

PARAMETERS = ("repetition_time", "flip_angle", "gradient_area", "gradient_duration")
"""Parameters of an acquisition that ingest can store for each exam of a series."""

PROFILES = ("oai",)
"""Names of the profiles, which are sets of array sizes for a new lake."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of variables of a lake.

    Parameters
    ----------
    name : str
        Name in the store, for example ``"msme"``.
    order : int
        Position in lists of groups; smaller numbers first.
    prose : str
        One line that describes the content, without a full stop.
    dims : tuple of str
        Dimensions of the image of a series; the last three are `VOLUME_DIMS`. A dimension before
        them, such as ``echo`` or ``spin_lock``, is that of the images of one scan; their times are
        stored as ``echo_time`` or ``spin_lock_time``. Empty for groups without images.
    inner_slices : int
        Slices in one chunk of a volume.
    sizes : mapping of str to int
        Array sizes by dimension in the profile ``"oai"``. Empty: the first ingest sets the sizes.
    title : str
        Name of the series in descriptions of variables.
    series : str
        Regular expression that matches the start of the DICOM SeriesDescription of this series, in
        upper case. Empty: the group is not chosen by SeriesDescription.
    axis : {"exam", "visit"}
        First dimension of the group's arrays.
    parameters : tuple of str
        Values of `PARAMETERS` that ingest stores for each exam, because the maps of the series
        depend on them.
    images : int
        Number of images of a scan, such as two echoes. 0: at least two.
    """

    name: str
    order: int
    prose: str
    dims: tuple[str, ...] = ()
    inner_slices: int = 16
    sizes: Mapping[str, int] = field(default_factory=dict)
    title: str = ""
    series: str = ""
    axis: str = "exam"
    parameters: tuple[str, ...] = ()
    images: int = 0

    def __post_init__(self) -> None:
        if self.dims and self.dims[-3:] != VOLUME_DIMS:
            raise VariableError(
                f"dimensions {', '.join(self.dims)}",
                expected=f"dimensions that end with {', '.join(VOLUME_DIMS)}",
                where=f"group {self.name}",
            )
        if len(self.dims) > len(VOLUME_DIMS) + 1:
            raise VariableError(
                f"dimensions {', '.join(self.dims)}",
                expected=f"at most one dimension before {', '.join(VOLUME_DIMS)}",
                where=f"group {self.name}",
            )
        if unknown := [name for name in self.parameters if name not in PARAMETERS]:
            raise VariableError(
                f"parameter {unknown[0]!r}",
                expected=f"one of {', '.join(PARAMETERS)}",
                where=f"group {self.name}",
            )
        if self.sizes and tuple(self.sizes) != self.dims:
            raise VariableError(
                f"sizes of {', '.join(self.sizes)}",
                expected=f"sizes of {', '.join(self.dims) or 'no dimension'}",
                where=f"group {self.name}",
            )

    @property
    def image_axis(self) -> str:
        """Dimension of the images of one scan, such as ``echo``; "" if a scan is one volume."""
        return self.dims[0] if len(self.dims) > len(VOLUME_DIMS) else ""

    @property
    def times(self) -> str:
        """Variable of the times of the images, such as ``echo_time``; "" for one volume."""
        return f"{self.image_axis}_time" if self.image_axis else ""

    @property
    def has_several_images(self) -> bool:
        """Whether a scan has several images, which differ in their times."""
        return bool(self.image_axis)

    @property
    def has_echoes(self) -> bool:
        """Whether the image has an echo dimension, and the group an ``echo_time``."""
        return "echo" in self.dims

    @property
    def label(self) -> str:
        """Name of the series in text: its title, or its name in capital letters."""
        return self.title or self.name.upper()


class GroupRegistry:
    """The groups known to this process; iteration yields them sorted by `Group.order`.

    A stored group may be unknown, because a step that is not installed wrote it. `position`,
    `image_dims`, `inner_slices`, `axis` and `prose` therefore have a default for unknown names.
    """

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._groups: dict[str, Group] = {}
        for group in groups:
            self.add(group)

    def add(self, group: Group) -> Group:
        """Add a group. Adding an equal group again has no effect.

        Raises
        ------
        VariableError
            If another group of that name exists.
        """
        known = self._groups.setdefault(group.name, group)
        if known != group:
            raise VariableError(
                f"a second declaration of group {group.name}",
                expected="the same as the first",
                todo="Choose another name.",
            )
        return known

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """At the end of the ``with`` block, remove the groups that were added inside it."""
        known = dict(self._groups)
        try:
            yield
        finally:
            self._groups.clear()
            self._groups.update(known)

    def __getitem__(self, name: str) -> Group:
        return self._groups[name]

    def __contains__(self, name: object) -> bool:
        return name in self._groups

    def __iter__(self) -> Iterator[Group]:
        return iter(sorted(self._groups.values(), key=lambda group: (group.order, group.name)))

    def series(self) -> tuple[str, ...]:
        """Return the names of the groups with images, in their order."""
        return tuple(group.name for group in self if group.dims)

    def position(self, name: str) -> tuple[float, str]:
        """Return a sort key for group names: known groups first, in their order; then by name."""
        return (self._groups[name].order if name in self._groups else float("inf"), name)

    def image_dims(self, name: str) -> tuple[str, ...]:
        """Return the dimensions of a group's images; `VOLUME_DIMS` for an unknown group."""
        return (self._groups[name].dims if name in self._groups else ()) or VOLUME_DIMS

    def inner_slices(self, name: str) -> int:
        """Return the number of slices in a chunk of a group's volumes; 16 for an unknown group."""
        return self._groups[name].inner_slices if name in self._groups else 16

    def axis(self, name: str) -> str:
        """Return the first dimension of a group's arrays; ``exam`` for an unknown group."""
        return self._groups[name].axis if name in self._groups else "exam"

    def prose(self, name: str) -> str:
        """Return the one-line description of a group."""
        known = name in self._groups
        return self._groups[name].prose if known else f"Group {name} of the lake"

    def named(self, series_description: str) -> str:
        """Return the group that matches an upper-case DICOM SeriesDescription, or "" if none."""
        for group in self:
            if group.series and re.match(group.series, series_description):
                return group.name
        return ""

    def with_echoes(self, several: bool) -> str:
        """Return the first series with (or without) an echo dimension."""
        return next(group.name for group in self if group.dims and group.has_echoes == several)

    def profile_sizes(self, profile: str | None, name: str) -> dict[str, int]:
        """Return the array sizes of a group in a profile; empty if the profile sets none."""
        if profile not in PROFILES or name not in self._groups:
            return {}
        return dict(self._groups[name].sizes)


GROUPS = GroupRegistry(
    [
        Group("clinical", 10, "Age, sex, body mass index, grades and scores of each exam"),
        Group(
            "visit",
            20,
            "Clinical values of every visit of every patient, with or without an MRI",
            axis="visit",
        ),
        Group(
            "dess",
            30,
            "DESS images, their geometry and labels",
            dims=VOLUME_DIMS,
            inner_slices=16,
            sizes={"slice": 176, "row": 384, "column": 384},
            title="DESS",
            series="SAG_3D_DESS",
        ),
        Group(
            "msme",
            40,
            "Multi-echo spin-echo images, their geometry, labels and T2 maps",
            dims=("echo", *VOLUME_DIMS),
            inner_slices=4,
            sizes={"echo": 7, "slice": 40, "row": 384, "column": 384},
            title="Multi-echo spin-echo (MSME)",
            series="SAG_T2_MAP",
        ),
        Group(
            "t1rho",
            42,
            "Spin-lock images, their geometry, labels and T1rho maps",
            dims=("spin_lock", *VOLUME_DIMS),
            inner_slices=4,
            title="T1rho",
        ),
        Group(
            "t2star",
            44,
            "Gradient-echo trains, their geometry, labels and T2* maps",
            dims=("echo", *VOLUME_DIMS),
            inner_slices=4,
            title="T2*",
        ),
        Group(
            "qdess",
            46,
            "Both echoes of a DESS, their geometry, labels and T2 maps",
            dims=("echo", *VOLUME_DIMS),
            inner_slices=8,
            title="qDESS",
            parameters=PARAMETERS,
            images=2,
        ),
        Group("sphere", 50, "Spherical maps of bone shape, cartilage thickness and T2"),
        Group("region", 60, "Thickness, volume and T2 of cartilage in regions"),
        Group("prediction", 70, "Probabilities of osteoarthritis and pain, by strategy and bone"),
    ]
)
"""The groups of qmri_lake itself, and the groups that steps add."""
