"""Write an interactive viewer of one exam: a self-contained page with slices, maps and bones."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.lake.synthetic_exams import describe_synthetic
from qmri_lake.report.bone_pictures import CAMERA, screen_axes
from qmri_lake.report.colours import (
    BONE_COLOURS,
    BONE_SHAPE_RANGE,
    MAP_STYLES,
    STATE_COLOURS,
    T2_RANGE,
    TISSUE_COLOURS,
)
from qmri_lake.report.map_atlases import (
    AZIMUTH_LABELS,
    BONE_ORDER,
    one_bone,
)
from qmri_lake.report.page import write_page
from qmri_lake.report.slice_figures import axis_letters
from qmri_lake.surface.articular_area import SURFACE_STATUS
from qmri_lake.surface.spherical_grid import POLAR_MAX, directions, frame
from qmri_lake.tissues import BONE, CARTILAGE, NO_MASK

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["write_view"]

_MESH_STRIDE = 2
"""Step between the pixels of a map that are corners of the mesh. With a step of 2, the mesh of a
bone has 12,544 corners."""
_LEVELS_PER_UNIT = 100.0
_JPEG_QUALITY = 80


def write_view(lake: Lake, exam: str, out: str | os.PathLike[str]) -> Path:
    """Write an HTML viewer of one exam: slices with masks and T2, maps, and bones in 3D.

    Parameters
    ----------
    lake : Lake
    exam : str
        Exam key, such as ``9000001-012m-right``.
    out : path
        HTML file to write. Missing folders are created.

    Returns
    -------
    Path
        Path of the file, which loads no other files and needs no server. Masks, T2 and maps that
        the exam does not have are omitted. DESS slices are lossily compressed and must not be used
        for measurements; map values are rounded to 0.01 mm and 0.01 ms.

    Raises
    ------
    NotFoundError
        If there is no such exam, or the exam has neither images nor maps.

    Notes
    -----
    The page identifies the exam by its key and contains no other personal data.
    """
    chosen = lake.select(exam=exam)
    parts = {
        "dess": _dess_data(_read(lake, chosen, "dess", ("image", "bone", "cartilage"))),
        "msme": _msme_data(_read(lake, chosen, "msme", ("image", "t2"))),
        "bones": _bone_data(_read(lake, chosen, "sphere", ("map",))),
    }
    if not any(parts.values()):
        raise NotFoundError(
            f"no images and no maps of {exam}",
            expected="DESS, MSME or spherical maps",
            where=lake.url,
            todo="Ingest the images of the exam first.",
            reason=Reason.ABSENT_EXAM,
        )
    data = {
        **parts,
        "styles": {
            name: {**style._asdict(), "colours": _colour_table(style.colours)}
            for name, style in MAP_STYLES.items()
        },
        "plain": {name: _rgb(colour) for name, colour in STATE_COLOURS.items()},
        "status": dict(SURFACE_STATUS),
        "tissues": [*zip(_tissue_names(), _tissue_colours(), strict=True)],
        "t2_range": T2_RANGE,
        "front": screen_axes((0.0, -1.0, 0.0), (0.0, 0.0, 1.0)).tolist(),
    }
    return write_page(
        "viewer.html",
        out,
        exam=exam,
        data=data,
        order=BONE_ORDER,
        synthetic=bool(describe_synthetic(lake, chosen.rows)),
    )


def _read(lake: Lake, cohort: Cohort, group: str, names: tuple[str, ...]) -> xr.Dataset | None:
    """Load the stored variables of a group; return None if the first of `names` is missing."""
    variables = lake.variables()
    stored = [
        name
        for name in names
        if f"{group}/{name}" in variables and len(cohort.require(f"{group}/{name}"))
    ]
    if names[0] not in stored:
        return None
    ds = lake.load(group, cohort).isel(exam=0)
    # Variables without values for this exam contain the fill value, which must not be shown.
    return ds.drop_vars(set(names) - set(stored), errors="ignore").compute()


def _dess_data(ds: xr.Dataset | None) -> JsonObject | None:
    if ds is None:
        return None
    labels = np.zeros(ds["image"].shape, np.uint8)
    for name, first in (("bone", 0), ("cartilage", len(BONE_COLOURS))):
        if name in ds and not (ds[name].values == NO_MASK).any():
            mask = ds[name].values
            labels[mask > 0] = mask[mask > 0] + first
    palette = [(0, 0, 0), *(tuple(rgb) for rgb in _tissue_colours())]
    return {
        **_geometry(ds),
        "images": _encode_slices(ds["image"].values),
        "layer": _encode_overlays(labels, palette) if labels.any() else None,
    }


def _msme_data(ds: xr.Dataset | None) -> JsonObject | None:
    if ds is None:
        return None
    layer = None
    if "t2" in ds:
        low, high = T2_RANGE
        values = ds["t2"].values
        known = np.isfinite(values)
        level = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
        index = np.where(known, 1 + np.rint(254 * level), 0).astype(np.uint8)
        colours = np.frombuffer(
            base64.b64decode(_colour_table(MAP_STYLES["t2"].colours)), np.uint8
        ).reshape(-1, 3)
        layer = _encode_overlays(index, [(0, 0, 0), *(tuple(rgb) for rgb in colours[1:].tolist())])
    echo = ds["image"].isel(echo=min(1, ds.sizes["echo"] - 1))
    return {**_geometry(ds), "images": _encode_slices(echo.values), "layer": layer}


def _geometry(ds: xr.Dataset) -> JsonObject:
    affine = ds["affine"].values
    down, right = axis_letters(affine[:3, 1]), axis_letters(affine[:3, 2])
    return {
        "size": [ds.sizes["column"], ds.sizes["row"]],
        "spacing": np.linalg.norm(affine[:3, [2, 1]], axis=0).tolist(),
        "to_voxel": np.linalg.inv(affine).tolist(),
        "letters": {"top": down[1], "bottom": down[0], "left": right[1], "right": right[0]},
    }


def _encode_slices(volume: NDArray[np.floating]) -> list[str]:
    finite = volume[np.isfinite(volume)]
    top = max(float(np.percentile(finite, 99.5)) if finite.size else 1.0, 1e-6)
    gray = np.rint(255 * np.clip(np.nan_to_num(volume) / top, 0, 1)).astype(np.uint8)
    return [_data_url(Image.fromarray(plane), "JPEG", quality=_JPEG_QUALITY) for plane in gray]


def _encode_overlays(index: NDArray[np.uint8], palette: Sequence[tuple[int, ...]]) -> list[str]:
    """Encode slices as colour images, transparent where the index is 0; "" for an empty slice."""
    flat = [int(part) for colour in palette for part in colour]
    urls = []
    for plane in index:
        image = Image.fromarray(plane, mode="P")
        image.putpalette(flat)
        urls.append(_data_url(image, "PNG", transparency=0, optimize=True) if plane.any() else "")
    return urls


def _data_url(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"


def _bone_data(ds: xr.Dataset | None) -> JsonObject | None:
    """Return maps in units of 0.01 mm and 0.01 ms, and the positions of every second pixel."""
    if ds is None:
        return None
    bones: JsonObject = {}
    back = np.linalg.inv(frame(str(ds["knee"].item())))[:3, :3]
    for bone in BONE_ORDER:
        maps = one_bone(ds, bone)
        if not np.isfinite(maps["bone_shape"].values).any():
            continue
        radius = maps["bone_shape"].values[::_MESH_STRIDE, ::_MESH_STRIDE, None]
        points = np.array(maps.attrs["centre"]) + radius * (
            directions(bone)[::_MESH_STRIDE, ::_MESH_STRIDE] @ back.T
        )
        known = np.isfinite(points).all(axis=2, keepdims=True)
        bones[bone] = {
            "polar_max": POLAR_MAX[bone],
            "shape_range": BONE_SHAPE_RANGE[bone],
            "screen": screen_axes(*CAMERA[bone]).tolist(),
            "around": list(AZIMUTH_LABELS[bone]),
            "places": _base64_array(np.where(known, points, np.nan).astype(np.float32), "<f4"),
            "status": _base64_array(maps["surface_status"].values, "u1"),
            "maps": {
                name: _base64_array(_hundredths(maps[name].values), "<u2") for name in MAP_STYLES
            },
        }
    return bones or None


def _hundredths(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Return values in units of 0.01; 65535 where there is no value."""
    whole = np.clip(np.rint(np.nan_to_num(values) * _LEVELS_PER_UNIT), 0, 65534)
    return np.where(np.isfinite(values), whole, 65535).astype(np.uint16)


def _base64_array(values: ArrayLike, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def _colour_table(name: str) -> str:
    """Return a colormap as 256 x 3 bytes, in base64."""
    colours = mpl.colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return _base64_array(np.rint(255 * colours), "u1")


def _rgb(colour: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(colour)]


def _tissues() -> tuple[list[str], list[str]]:
    """Return the names of bones and soft tissues, in the order of the labels of a slice."""
    soft = sorted((n for n in CARTILAGE if n != "background"), key=CARTILAGE.__getitem__)
    return sorted(BONE_COLOURS, key=BONE.__getitem__), soft


def _tissue_names() -> list[str]:
    bones, soft = _tissues()
    return [*bones, *(n if n == "meniscus" else f"{n} cartilage" for n in soft)]


def _tissue_colours() -> list[list[int]]:
    bones, soft = _tissues()
    return [*(_rgb(BONE_COLOURS[n]) for n in bones), *(_rgb(TISSUE_COLOURS[n]) for n in soft)]
