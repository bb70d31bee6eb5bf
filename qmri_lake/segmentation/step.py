"""Segmentation of a lake's DESS images: lazily in a session, or as a run; one kernel for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.compute import one_exam_a_block
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.segmentation.checks import check_mask, side_from_anatomy
from qmri_lake.segmentation.components import remove_small as without_small
from qmri_lake.segmentation.ensemble import Dtype, Member, open_members, segment_exam
from qmri_lake.segmentation.memory import check_gpu, gpu_bytes, projected_bytes
from qmri_lake.segmentation.network import Network
from qmri_lake.segmentation.recipes import MASK_NAMES, Task
from qmri_lake.steps import step
from qmri_lake.variables import REGISTRY, Variable

__all__ = ["check_masks", "segment", "segment_bones", "segment_cartilage"]

_VOLUME = ("slice", "row", "column")


def _segment_exam(
    image: NDArray[Any],
    affine: NDArray[np.float64],
    knee: str,
    members: Sequence[Member],
    remove_small: bool,
) -> dict[str, Any]:
    """Return what is kept of one exam: by name, without what has no value."""
    name = MASK_NAMES[members[0].task]
    labels, uncertainty = segment_exam(image, affine, knee, members)
    found: dict[str, Any] = {name: labels}
    if uncertainty is not None:
        found[f"{name}_uncertainty"] = uncertainty
    if remove_small:
        cleaned = without_small(labels, spacing=np.linalg.norm(affine[:3, :3], axis=0))
        found |= {name: cleaned.labels, f"{name}_removed": np.int32(cleaned.voxels)}
    return found


# ------------------------------------------------------------------------------------- steps


def _checker(task: Task) -> Any:
    def check(*, models: Any, dtype: Any, remove_small: Any) -> dict[str, Any]:
        _check_flag(remove_small, f"step segment_{task}")
        # Open from here on: what tasks load is what the run records, or the run ends.
        members = open_members(models, task=task, dtype=dtype)
        for member in members:
            if isinstance(member, Network):
                member.check()
        return {"models": tuple(members)}

    return check


def _check_flag(remove_small: Any, where: str) -> None:
    if not isinstance(remove_small, (bool, np.bool_)):
        raise RunError(f"remove_small={remove_small!r}", expected="True or False", where=where)


def _recorded(*, models: Sequence[Member], dtype: str, remove_small: bool) -> dict[str, Any]:
    # Neither where networks lie nor their order makes an exam stale; the dtype is in the identity.
    identities = sorted(member.identity for member in models)
    return {"models": identities, "remove_small": bool(remove_small)}


def _memory(sizes: Mapping[str, int], *, models: Sequence[Member], **_: Any) -> int:
    shape = [sizes[dim] for dim in _VOLUME]
    ours = any(isinstance(member, Network) for member in models)
    gpu = gpu_bytes() if ours else None
    if gpu is not None:
        check_gpu(models, shape, gpu)
    return projected_bytes(models, shape, on_gpu=gpu is not None)


def _loaded(models: Any, task: Task, dtype: Dtype) -> list[Member]:
    """Open members and load our networks; what is wrong there is no failure of an exam.

    It would fail all of them, and their masks of an earlier run would be gone: a RunError ends
    the run instead.
    """
    try:
        members = open_members(models, task=task, dtype=dtype)
        for member in members:
            if isinstance(member, Network):
                member.load()
    except (InputError, NotFoundError) as error:
        raise RunError(
            error.found, expected=error.expected, where=error.where, todo=error.todo,
            reason=error.reason,
        ) from error  # fmt: skip
    return members


def _run(dess: xr.Dataset, models: Sequence[Member], remove_small: bool) -> xr.Dataset:
    affine = dess["affine"].values
    found = _segment_exam(dess["image"].values, affine, dess.knee.item(), models, remove_small)
    name = next(iter(found))
    odd = check_mask(affine, **{name: found[name]})
    result = xr.Dataset({n: (_VOLUME if np.ndim(v) else (), v) for n, v in found.items()})
    return result.assign_attrs(flag="; ".join(odd)) if odd else result


@step(
    reads={"dess": ("image", "affine")},
    writes=REGISTRY.made_by("segment_bones"),
    gpu=True,
    check=_checker("bones"),
    recorded=_recorded,
    memory=_memory,
)
def segment_bones(
    dess: xr.Dataset, *, models: Any, dtype: Dtype = "float32", remove_small: bool = True
) -> xr.Dataset:
    """Segment the bones of one exam; the parameters are those of `segment`.

    What is odd about the mask flags the exam, which is kept.
    """
    return _run(dess, _loaded(models, "bones", dtype), remove_small)


@step(
    reads={"dess": ("image", "affine")},
    writes=REGISTRY.made_by("segment_cartilage"),
    gpu=True,
    check=_checker("cartilage"),
    recorded=_recorded,
    memory=_memory,
)
def segment_cartilage(
    dess: xr.Dataset, *, models: Any, dtype: Dtype = "float32", remove_small: bool = True
) -> xr.Dataset:
    """Segment cartilage and menisci of one exam; the parameters are those of `segment`.

    It does not wait for bones, so it can't tell the side: `check_masks` does.
    """
    return _run(dess, _loaded(models, "cartilage", dtype), remove_small)


@step(
    reads={"dess": ("bone", "cartilage", "affine")},
    writes=(
        Variable("dess", "anatomical_knee", (), "string",
                 "Side of the knee that bones and cartilage look like: left or right",
                 fill_meaning="not checked, or not told by anatomy"),
        Variable("dess", "anatomical_margin", (), "float32",
                 "How clearly: 0 (the cues cancel out) to 1.5", "",
                 "not checked, or no cues", valid_range=(0, 1.5)),
    ),
)  # fmt: skip
def check_masks(dess: xr.Dataset) -> xr.Dataset:
    """Look at both masks of one exam, computed or imported; flag it if anything is odd.

    The side that anatomy tells is compared with that of the exam's key.
    """
    affine, bone, cartilage = (dess[name].values for name in ("affine", "bone", "cartilage"))
    odd = check_mask(affine, dess.knee.item(), bone=bone, cartilage=cartilage)
    side = side_from_anatomy(bone, cartilage, affine)
    result = xr.Dataset(
        {"anatomical_knee": side.knee or "", "anatomical_margin": np.float32(side.margin)}
    )
    return result.assign_attrs(flag="; ".join(odd)) if odd else result


# ----------------------------------------------------------------------------------- session


def segment(
    dess: xr.Dataset, models: Any, *, dtype: Dtype = "float32", remove_small: bool = True
) -> xr.Dataset:
    """Add labels of bones, of cartilage, or of both, to DESS images, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `image` (exam, slice, row, column), `affine`, `knee` where a network wants
        the medial slice first, and `extent` where exams differ. Whole volumes; without ``exam``
        for one exam. It is not modified.
    models : path, Network, OwnNetwork, or sequence of them
        Folders of networks, or networks; those of one task are an ensemble.
    dtype : {"float32", "bfloat16"}
        What our networks compute in; bfloat16 takes less memory. Labels differ in a few voxels.
    remove_small : bool
        Make small pieces background: `qmri_lake.segmentation.components.remove_small`.

    Returns
    -------
    Dataset
        `dess` with `bone` (exam, slice, row, column) uint8, 255 beyond an exam's extent;
        `bone_uncertainty` float32, 0 to 1, if there are several networks: the share of them whose
        own label is another one; `bone_removed` (exam), voxels of small pieces; and likewise
        `cartilage`, in place of what `dess` has of them. One task an exam computes all of them.
        Nothing is flagged here: see `qmri_lake.segmentation.checks.check_mask`.

    Raises
    ------
    NotFoundError
        A variable that is needed is not there, or no network.
    InputError
        Models that are none, weights that don't fit, or parts of volumes. When computed: an image
        without signal, a volume that is smaller than a network can take, voxels of another size
        than in its training, weights that have changed.
    """
    _check_flag(remove_small, "segment")
    members = open_members(models, dtype=dtype)
    inputs = _inputs(dess, any(member.frame.medial_first for member in members))
    tasks = {
        task: [member for member in members if member.task == task]
        for task in MASK_NAMES
        if any(member.task == task for member in members)
    }
    made = [
        variable
        for task, ensemble in tasks.items()
        for variable in REGISTRY.made_by(f"segment_{task}")
        if not (variable.name.endswith("_uncertainty") and len(ensemble) == 1)
        and not (variable.name.endswith("_removed") and not remove_small)
    ]
    core = {"image": list(_VOLUME), "affine": ["world", "voxel"], "extent": ["axis"], "knee": []}
    arrays = xr.apply_ufunc(
        _segment_block,
        *(one_exam_a_block(xr.DataArray(array.variable)) for array in inputs.values()),
        input_core_dims=[core[name] for name in inputs],
        output_core_dims=[list(variable.dims) for variable in made],
        kwargs={
            "names": list(inputs),
            "made": made,
            "ensembles": list(tasks.values()),
            "remove_small": bool(remove_small),
        },
        dask="parallelized",
        output_dtypes=[np.dtype(variable.dtype) for variable in made],
        keep_attrs=False,
    )
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    # What is not made anew is of other networks: it must not stand beside these masks.
    stored = [v.name for task in tasks for v in REGISTRY.made_by(f"segment_{task}")]
    return dess.drop_vars([name for name in stored if name in dess]).assign(
        {
            variable.name: array.variable._replace(attrs=variable.attributes())
            for variable, array in zip(made, arrays, strict=True)
        }
    )


def _inputs(dess: xr.Dataset, sided: bool) -> dict[str, xr.DataArray]:
    """Return what the kernel reads, or say what is missing."""
    needed = ["image", "affine", *(["knee"] if sided else [])]
    for name in needed:
        if name not in dess:
            raise NotFoundError(
                f"no {'coordinate' if name == 'knee' else 'variable'} {name!r}",
                expected=", ".join(needed),
                where="segment",
                todo="Say which knee it is: ds.assign_coords(knee='left')."
                if name == "knee"
                else "Load group dess.",
            )
    dims = [str(dim) for dim in dess["image"].dims]
    if "echo" in dims or not set(_VOLUME) <= set(dims):
        raise InputError(
            f"an image along {', '.join(dims)}", expected=f"one along {', '.join(_VOLUME)}",
            where="segment", todo="Load group dess.", reason=Reason.INCONSISTENT_GEOMETRY,
        )  # fmt: skip
    for dim in _VOLUME:
        if dim in dess.coords and (dess[dim].values != np.arange(dess.sizes[dim])).any():
            raise InputError(
                f"a part of the DESS along {dim}", expected="whole volumes", where="segment",
                todo="Select voxels of the result.", reason=Reason.INCONSISTENT_GEOMETRY,
            )  # fmt: skip
    return {name: dess[name] for name in (*needed, "extent") if name in dess}


def _segment_block(
    *arrays: Any, names: list[str], made: list[Variable], **options: Any
) -> tuple[Any, ...] | Any:
    """Segment a Dask block of any number of exams, one after another."""
    if arrays[0].ndim == 3:
        exam = _segment_inside(dict(zip(names, arrays, strict=True)), made, **options)
        return tuple(exam) if len(exam) > 1 else exam[0]
    count, shape = len(arrays[0]), arrays[0].shape[1:]
    out = [np.empty((count, *(shape if v.dims else ())), v.dtype) for v in made]
    for row, values in enumerate(zip(*arrays, strict=True)):
        exam = _segment_inside(dict(zip(names, values, strict=True)), made, **options)
        for array, value in zip(out, exam, strict=True):
            array[row] = value
    return tuple(out) if len(out) > 1 else out[0]


def _segment_inside(
    exam: dict[str, Any],
    made: list[Variable],
    ensembles: list[list[Member]],
    remove_small: bool,
) -> list[Any]:
    """Segment one exam inside its own extent; beyond it is fill, as in the lake."""
    image = exam["image"]
    box = tuple(slice(0, n) for n in image.shape)
    if "extent" in exam and (exam["extent"] > 0).all():
        box = tuple(slice(0, int(n)) for n in exam["extent"])
    knee = str(exam["knee"]) if "knee" in exam else ""
    found: dict[str, Any] = {}
    for members in ensembles:
        found |= _segment_exam(image[box], exam["affine"], knee, members, remove_small)
    whole = []
    for variable in made:
        values = np.asarray(found[variable.name])
        if variable.dims:
            full = np.full(image.shape, variable.fill, variable.dtype)
            full[box] = values
            values = full
        whole.append(values)
    return whole
