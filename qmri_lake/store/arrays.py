"""Types of Zarr groups and arrays, their creation, and the encoding of variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from types import EllipsisType
from typing import Any, Literal, Protocol, Self, cast, overload

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonObject
from qmri_lake.schema.variable import Coordinate, Encoding, Variable

__all__ = [
    "Node",
    "compressors",
    "create_array",
    "create_coordinate",
    "create_root",
    "has_checksum",
    "open_root",
]

Index = int | np.integer | slice | EllipsisType | NDArray[np.integer | np.bool_]
Selection = Index | tuple[Index, ...]
"""An index, or one index per axis, that selects elements of an array."""


class Orthogonal(Protocol):
    """Selection of an array by one index per axis."""

    def __getitem__(self, selection: Selection) -> Values:
        """Read a selection."""


class Node(Protocol):
    """A Zarr group or array.

    A path may refer to either, so static typing cannot distinguish them. This protocol has all
    members of groups and arrays that the package uses, so that ``root["msme/t2"][:]`` has a type.
    At run time, an array raises an error for a member of groups, and vice versa.
    """

    # Members of groups and arrays.
    @property
    def attrs(self) -> MutableMapping[str, Any]:
        """Attributes."""

    @overload
    def __getitem__(self, selection: str) -> Node: ...
    @overload
    def __getitem__(self, selection: Selection) -> Values: ...
    def __getitem__(self, selection: str | Selection) -> Node | Values:
        """Return the member of a group at a path, or read elements of an array."""

    # Members of groups.
    def __contains__(self, path: object) -> bool:
        """Return whether a group has a member at this path."""

    def array_keys(self) -> Iterator[str]:
        """Iterate over the names of the arrays of a group."""

    def group_keys(self) -> Iterator[str]:
        """Iterate over the names of the subgroups of a group."""

    def arrays(self) -> Iterator[tuple[str, Self]]:
        """Iterate over the names and arrays of a group."""

    def groups(self) -> Iterator[tuple[str, Self]]:
        """Iterate over the names and subgroups of a group."""

    def require_group(self, name: str) -> Self:
        """Return a subgroup; create it if it does not exist."""

    def create_array(self, name: str, **encoding: Any) -> Self:
        """Create an array in a group."""

    def __delitem__(self, name: str) -> None:
        """Remove a member of a group."""

    # Members of arrays.
    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an array."""

    @property
    def ndim(self) -> int:
        """Number of dimensions of an array."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Data type of an array."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the inner chunks of an array."""

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Shape of the shards of an array, or None."""

    @property
    def filters(self) -> object:
        """Filters of an array."""

    @property
    def serializer(self) -> object:
        """Codec of an array that turns chunks into bytes."""

    @property
    def compressors(self) -> tuple[object, ...]:
        """Compressors of an array."""

    @property
    def fill_value(self) -> Any:
        """Value of the elements that are not stored."""

    @property
    def metadata(self) -> Encoding:
        """Encoding of an array, with the names of its dimensions."""

    @property
    def oindex(self) -> Orthogonal:
        """Selection of an array by one index per axis."""

    def resize(self, shape: tuple[int, ...]) -> None:
        """Change the shape of an array."""

    def __setitem__(self, selection: Selection, values: object) -> None:
        """Write elements of an array."""


def open_root(store: Store, mode: Literal["r", "r+"] = "r") -> Node:
    """Open the root group of a session's store."""
    return cast(Node, zarr.open_group(store, mode=mode))


def create_root(store: Store, attributes: JsonObject) -> Node:
    """Create the root group of a new repository."""
    return cast(Node, zarr.create_group(store, attributes=attributes))


def compressors(*, text: bool) -> tuple[BloscCodec | ZstdCodec, Crc32cCodec]:
    """Return the compression of an array, and the checksum of its compressed chunks.

    Without a checksum, most changed bits of a chunk are read as other values.
    """
    # Bit shuffling needs items of a fixed size.
    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
    return ZstdCodec(level=3) if text else codec, Crc32cCodec()


def has_checksum(array: Node) -> bool:
    """Return whether the chunks of an array have a checksum; before version 0.2.0, none had one."""
    return any(isinstance(codec, Crc32cCodec) for codec in array.compressors)


def create_array(
    group: Node, variable: Variable, name: str, length: int, sizes: Mapping[str, int]
) -> None:
    """Create the array of a variable for `length` exams (or visits), filled with the fill value."""
    chunks, shards = variable.chunks(sizes)
    text = variable.dtype == "string"
    group.create_array(
        name,
        shape=(length, *variable.shape(sizes)),
        dtype=np.dtypes.StringDType() if text else variable.dtype,
        chunks=chunks,
        shards=shards,
        fill_value=variable.fill,
        compressors=compressors(text=text),
        dimension_names=(variable.first_axis, *variable.dims),
        attributes=variable.attributes(),
    )


def create_coordinate(group: Node, coordinate: Coordinate) -> None:
    """Store the labels of a dimension as a coordinate that plain xarray recognises."""
    values = np.asarray(coordinate.values)
    text = values.dtype.kind == "U"
    array = group.create_array(
        coordinate.name,
        shape=values.shape,
        dtype=np.dtypes.StringDType() if text else values.dtype,
        compressors=compressors(text=text),
        dimension_names=coordinate.dims,
        attributes=coordinate.attributes,
    )
    array[...] = values.astype(object) if text else values
    # Without this attribute, xarray recognises only coordinates named after their dimension.
    if coordinate.dims != (coordinate.name,):
        known = str(group.attrs.get("coordinates", "")).split()
        group.attrs["coordinates"] = " ".join([*known, coordinate.name])
