"""Access to arrays of NumPy, CuPy and other libraries through the array API standard."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError

__all__ = ["Array", "Values", "as_array", "dtype_kind", "move_like", "namespace", "to_numpy"]

Array: TypeAlias = Any
"""An array of NumPy, CuPy or any array-API library; `Any`, because no type covers all of them."""

Values: TypeAlias = NDArray[Any]
"""A NumPy array of any dtype."""


def namespace(array: Array, where: str = "fit_mono_exponential") -> ModuleType:
    """Return the array-API namespace of an array, or cupy for CuPy arrays, which have none."""
    if hasattr(array, "__array_namespace__"):
        standard: ModuleType = array.__array_namespace__()
        return standard
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy

        module: ModuleType = cupy
        return module
    raise InputError(
        f"an array of type {type(array).__module__}.{type(array).__name__}",
        expected="NumPy, CuPy, or another library that follows the array API",
        where=where,
        todo="For Dask arrays use qmri_lake.fit_t2.",
    )


def as_array(values: ArrayLike | Array) -> Array:
    """Return array-API and CuPy arrays unchanged, and convert everything else to NumPy arrays."""
    if hasattr(values, "__array_namespace__") or _is_cupy(values):
        return values
    return np.asarray(values)


def move_like(values: Array, beside: Array) -> Array:
    """Convert an array to the library and the device of the array `beside`."""
    if type(values) is type(beside):
        return values
    if _is_cupy(beside):
        return namespace(beside, "spherical_map").asarray(values)
    return namespace(beside, "spherical_map").asarray(values, device=beside.device)


def to_numpy(values: Array) -> Values:
    """Convert an array to NumPy, also a CuPy array, which cannot be converted implicitly."""
    return np.asarray(values.get() if _is_cupy(values) else values)


def dtype_kind(values: Array) -> str:
    """Return NumPy's letter for the kind of an array's dtype: "b", "u", "i", "f" ..."""
    return np.dtype(str(values.dtype).rpartition(".")[2]).kind


def _is_cupy(values: Array) -> bool:
    return type(values).__module__.partition(".")[0] == "cupy"
