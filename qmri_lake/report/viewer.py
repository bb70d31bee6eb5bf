"""One exam to look at and turn around: a self-contained page with slices, maps and bones."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.report.figures import BONE_COLOURS, T2_RANGE, TISSUE_COLOURS, _direction
from qmri_lake.report.maps import AROUND, BONE_SHAPE_RANGE, COLOURS, ORDER, SHOWN, one_bone
from qmri_lake.report.page import write_page
from qmri_lake.report.painted import CAMERA, screen
from qmri_lake.surface.articular import SURFACE_STATUS
from qmri_lake.surface.layout import POLAR_MAX, directions, frame
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["write_view"]

_STRIDE = 2
"""Of the pixels of a map that are corners of a mesh: 12,544 a bone."""
_HUNDREDTH = 100.0
_JPEG_QUALITY = 80


def write_view(lake: Lake, exam: str, out: str | os.PathLike[str]) -> Path:
    """Write a page that shows one exam: slices with masks and T2, maps, and bones in 3D.

    Parameters
    ----------
    lake : Lake
    exam : str
        Its key, such as ``9000001-012m-right``.
    out : path
        The HTML file to write; its folder is made.

    Returns
    -------
    Path
        The file: it loads nothing from elsewhere and needs no server. What the exam lacks (masks,
        T2, maps) is left out. DESS slices are compressed with losses, to look at and not to
        measure; maps are exact to 0.01 mm and ms.

    Raises
    ------
    NotFoundError
        No such exam, or neither images nor maps of it.

    Notes
    -----
    The page names the exam by its key and holds nothing else that points to a person.
    """
    chosen = lake.select(exam=exam)
    parts = {
        "dess": _dess(_read(lake, chosen, "dess", ("image", "bone", "cartilage"))),
        "msme": _msme(_read(lake, chosen, "msme", ("image", "t2"))),
        "bones": _bones(_read(lake, chosen, "sphere", ("map",))),
    }
    if not any(parts.values()):
        raise NotFoundError(
            f"neither images nor maps of {exam}", expected="DESS, MSME or spherical maps",
            where=lake.url, todo="Ingest its images first.", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    data = {
        **parts,
        "looks": {
            name: {**look._asdict(), "colours": _table(look.colours)}
            for name, look in SHOWN.items()
        },
        "plain": {name: _rgb(colour) for name, colour in COLOURS.items()},
        "status": dict(SURFACE_STATUS),
        "tissues": [*zip(_tissue_names(), _tissue_colours(), strict=True)],
        "t2_range": T2_RANGE,
        "front": screen((0.0, -1.0, 0.0), (0.0, 0.0, 1.0)).tolist(),
    }
    return write_page("viewer.html", out, exam=exam, data=data, order=ORDER)


def _read(lake: Lake, chosen: Any, group: str, needed: tuple[str, ...]) -> xr.Dataset | None:
    """Return what an exam has of a group, computed; None without the first of what is needed."""
    stored = lake.variables()
    had = [
        name
        for name in needed
        if f"{group}/{name}" in stored and len(chosen.require(f"{group}/{name}"))
    ]
    if needed[0] not in had:
        return None
    ds = lake.load(group, chosen).isel(exam=0)
    # A declared array without this exam's values reads as fill, which is no picture.
    return ds.drop_vars(set(needed) - set(had), errors="ignore").compute()


def _dess(ds: xr.Dataset | None) -> dict[str, Any] | None:
    if ds is None:
        return None
    labels = np.zeros(ds["image"].shape, np.uint8)
    for name, first in (("bone", 0), ("cartilage", len(BONE_COLOURS))):
        if name in ds and not (ds[name].values == NO_MASK).any():
            found = ds[name].values
            labels[found > 0] = found[found > 0] + first
    palette = [(0, 0, 0), *(tuple(rgb) for rgb in _tissue_colours())]
    return {
        **_geometry(ds),
        "images": _slices(ds["image"].values),
        "layer": _layers(labels, palette) if labels.any() else None,
    }


def _msme(ds: xr.Dataset | None) -> dict[str, Any] | None:
    if ds is None:
        return None
    layer = None
    if "t2" in ds:
        low, high = T2_RANGE
        values = ds["t2"].values
        known = np.isfinite(values)
        level = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
        index = np.where(known, 1 + np.rint(254 * level), 0).astype(np.uint8)
        colours = np.frombuffer(base64.b64decode(_table("viridis")), np.uint8).reshape(-1, 3)
        layer = _layers(index, [(0, 0, 0), *(tuple(rgb) for rgb in colours[1:].tolist())])
    echo = ds["image"].isel(echo=min(1, ds.sizes["echo"] - 1))
    return {**_geometry(ds), "images": _slices(echo.values), "layer": layer}


def _geometry(ds: xr.Dataset) -> dict[str, Any]:
    affine = ds["affine"].values
    down, right = _direction(affine[:3, 1]), _direction(affine[:3, 2])
    return {
        "size": [ds.sizes["column"], ds.sizes["row"]],
        "spacing": np.linalg.norm(affine[:3, [2, 1]], axis=0).tolist(),
        "to_voxel": np.linalg.inv(affine).tolist(),
        "letters": {"top": down[1], "bottom": down[0], "left": right[1], "right": right[0]},
    }


def _slices(volume: NDArray[Any]) -> list[str]:
    finite = volume[np.isfinite(volume)]
    top = max(float(np.percentile(finite, 99.5)) if finite.size else 1.0, 1e-6)
    gray = np.rint(255 * np.clip(np.nan_to_num(volume) / top, 0, 1)).astype(np.uint8)
    return [_image(Image.fromarray(plane), "JPEG", quality=_JPEG_QUALITY) for plane in gray]


def _layers(index: NDArray[np.uint8], palette: list[tuple[Any, ...]]) -> list[str]:
    """Return slices of colours, transparent where the index is 0; empty text for an empty slice."""
    flat = [int(part) for colour in palette for part in colour]
    found = []
    for plane in index:
        image = Image.fromarray(plane, mode="P")
        image.putpalette(flat)
        found.append(_image(image, "PNG", transparency=0, optimize=True) if plane.any() else "")
    return found


def _image(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"


def _bones(ds: xr.Dataset | None) -> dict[str, Any] | None:
    """Return maps in hundredths of mm and ms, and places of every second pixel."""
    if ds is None:
        return None
    found: dict[str, Any] = {}
    back = np.linalg.inv(frame(str(ds["knee"].item())))[:3, :3]
    for bone in ORDER:
        maps = one_bone(ds, bone)
        if not np.isfinite(maps["bone_shape"].values).any():
            continue
        near = maps["bone_shape"].values[::_STRIDE, ::_STRIDE, None]
        places = np.array(maps.attrs["centre"]) + near * (
            directions(bone)[::_STRIDE, ::_STRIDE] @ back.T
        )
        seen = np.isfinite(places).all(axis=2, keepdims=True)
        found[bone] = {
            "polar_max": POLAR_MAX[bone],
            "shape_range": BONE_SHAPE_RANGE[bone],
            "screen": screen(*CAMERA[bone]).tolist(),
            "around": list(AROUND[bone]),
            "places": _packed(np.where(seen, places, np.nan).astype(np.float32), "<f4"),
            "status": _packed(maps["surface_status"].values, "u1"),
            "maps": {name: _packed(_hundredths(maps[name].values), "<u2") for name in SHOWN},
        }
    return found or None


def _hundredths(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return whole hundredths; 65535 where there is no value."""
    whole = np.clip(np.rint(np.nan_to_num(values) * _HUNDREDTH), 0, 65534)
    return np.where(np.isfinite(values), whole, 65535).astype(np.uint16)


def _packed(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def _table(name: str) -> str:
    """Return a colour scale as 256 x 3 bytes."""
    colours = mpl.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return _packed(np.rint(255 * colours), "u1")


def _rgb(colour: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(colour)]


def _tissues() -> tuple[list[str], list[str]]:
    """Return bones and soft tissues, in the order of the labels of a slice."""
    soft = sorted((n for n in CARTILAGE if n != "background"), key=CARTILAGE.__getitem__)
    return sorted(BONE_COLOURS, key=BONE.__getitem__), soft


def _tissue_names() -> list[str]:
    bones, soft = _tissues()
    return [*bones, *(n if n == "meniscus" else f"{n} cartilage" for n in soft)]


def _tissue_colours() -> list[list[int]]:
    bones, soft = _tissues()
    return [*(_rgb(BONE_COLOURS[n]) for n in bones), *(_rgb(TISSUE_COLOURS[n]) for n in soft)]
