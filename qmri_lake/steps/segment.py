"""Segment DESS images, lazily in a session or by a run, with the same kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.array_api import Array, Values
from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.session import exam_box, map_exams
from qmri_lake.execution.step import step
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
from qmri_lake.segmentation.models.ensemble import segment_exam
from qmri_lake.segmentation.models.members import Dtype, Member, ModelsLike, open_members
from qmri_lake.segmentation.models.memory import check_gpu, gpu_bytes, projected_bytes
from qmri_lake.segmentation.models.network import Network
from qmri_lake.segmentation.models.recipes import MASK_NAMES, Task
from qmri_lake.segmentation.quality.checks import check_mask
from qmri_lake.segmentation.quality.components import remove_small as without_small
from qmri_lake.store.runs import LEARNED_FROM

__all__ = ["segment", "segment_bones", "segment_cartilage"]


def _segment_exam(
    image: Values,
    affine: NDArray[np.float64],
    knee: str,
    members: Sequence[Member],
    remove_small: bool,
) -> dict[str, Array]:
    """Segment one exam; return the results by name of the variable."""
    name = MASK_NAMES[members[0].task]
    labels, uncertainty = segment_exam(image, affine, knee, members)
    found: dict[str, Array] = {name: labels}
    if uncertainty is not None:
        found[f"{name}_uncertainty"] = uncertainty
    if remove_small:
        cleaned = without_small(labels, spacing=voxel_spacing(affine))
        found |= {name: cleaned.labels, f"{name}_removed": np.int32(cleaned.voxels)}
    return found


# ------------------------------------------------------------------------------------- steps


def _checker(task: Task) -> Callable[..., dict[str, object]]:
    def check(*, models: ModelsLike, dtype: Dtype, remove_small: object) -> dict[str, object]:
        _check_flag(remove_small, f"step segment_{task}")
        # Opened when the run is planned, so that tasks load the networks that the run records.
        members = open_members(models, task=task, dtype=dtype)
        for member in members:
            if isinstance(member, Network):
                member.check()
        return {"models": tuple(members)}

    return check


def _check_flag(remove_small: object, where: str) -> None:
    if not isinstance(remove_small, (bool, np.bool_)):
        raise RunError(f"remove_small={remove_small!r}", expected="True or False", where=where)


def _recorded(*, models: Sequence[Member], dtype: str, remove_small: bool) -> dict[str, object]:
    # The folders of the networks and their order do not matter; the identity includes the dtype.
    identities = sorted(member.identity for member in models)
    return {"models": identities, "remove_small": bool(remove_small)}


def _learned_from(*, models: Sequence[Member], **_: object) -> dict[str, object]:
    """Return the patients from whom the networks learned, as a note of a run.

    ``unknown`` lists the networks whose training patients are not known, such as your own.
    """
    patients: set[int] = set()
    unknown = []
    for member in models:
        known = member.learned_from if isinstance(member, Network) else None
        patients |= known or set()
        if known is None:
            unknown.append(member.identity)
    return {LEARNED_FROM: {"patients": sorted(patients), "unknown": sorted(unknown)}}


def _memory(sizes: Mapping[str, int], *, models: Sequence[Member], **_: object) -> int:
    shape = [sizes[dim] for dim in VOLUME_DIMS]
    ours = any(isinstance(member, Network) for member in models)
    gpu = gpu_bytes() if ours else None
    if gpu is not None:
        check_gpu(models, shape, gpu)
    return projected_bytes(models, shape, on_gpu=gpu is not None)


def _loaded(models: ModelsLike, task: Task, dtype: Dtype) -> list[Member]:
    """Open members and load networks; if this fails, raise a RunError, which ends the run.

    With any other error, all exams would fail one by one, and their masks from an earlier run would
    be removed.
    """
    try:
        members = open_members(models, task=task, dtype=dtype)
        for member in members:
            if isinstance(member, Network):
                member.load()
    except (InputError, NotFoundError) as error:
        raise RunError(
            error.found,
            expected=error.expected,
            where=error.where,
            todo=error.todo,
            reason=error.reason,
        ) from error
    return members


def _run(dess: xr.Dataset, models: Sequence[Member], remove_small: bool) -> xr.Dataset:
    affine = dess["affine"].values
    found = _segment_exam(dess["image"].values, affine, dess.knee.item(), models, remove_small)
    name = next(iter(found))
    odd = check_mask(affine, **{name: found[name]})
    result = xr.Dataset({n: (VOLUME_DIMS if np.ndim(v) else (), v) for n, v in found.items()})
    return result.assign_attrs(flag="; ".join(odd)) if odd else result


@step(
    reads={"dess": ("image", "affine")},
    writes=REGISTRY.variables_of("segment_bones"),
    gpu=True,
    validate=_checker("bones"),
    recorded_parameters=_recorded,
    memory=_memory,
    notes=_learned_from,
)
def segment_bones(
    dess: xr.Dataset, *, models: ModelsLike, dtype: Dtype = "float32", remove_small: bool = True
) -> xr.Dataset:
    """Segment the bones of one exam; the parameters are those of `segment`.

    If the mask is implausible, the exam is flagged and the mask is kept.
    """
    return _run(dess, _loaded(models, "bones", dtype), remove_small)


@step(
    reads={"dess": ("image", "affine")},
    writes=REGISTRY.variables_of("segment_cartilage"),
    gpu=True,
    validate=_checker("cartilage"),
    recorded_parameters=_recorded,
    memory=_memory,
    notes=_learned_from,
)
def segment_cartilage(
    dess: xr.Dataset, *, models: ModelsLike, dtype: Dtype = "float32", remove_small: bool = True
) -> xr.Dataset:
    """Segment cartilage and menisci of one exam; the parameters are those of `segment`.

    The step does not read the bones. Therefore only `check_masks` can check the side of the knee.
    """
    return _run(dess, _loaded(models, "cartilage", dtype), remove_small)


# ----------------------------------------------------------------------------------- session


def segment(
    dess: xr.Dataset, models: ModelsLike, *, dtype: Dtype = "float32", remove_small: bool = True
) -> xr.Dataset:
    """Add labels of bones, of cartilage, or of both to DESS images, lazily.

    Parameters
    ----------
    dess : Dataset
        Group ``dess``: `image` (exam, slice, row, column), `affine`, `knee` if a network requires
        that the first slice is medial, and `extent` if exams differ in size. Volumes must be whole.
        A single exam has no dimension ``exam``. The Dataset is not modified.
    models : path, Network, OwnNetwork, or sequence of them
        Networks, or folders of networks. Networks of the same task form an ensemble.
    dtype : {"float32", "bfloat16"}
        Precision of the networks of this package. bfloat16 needs less memory; labels differ in a
        few voxels. A RunError is raised on a CPU without hardware for bfloat16.
    remove_small : bool
        Whether to remove small pieces: see
        `qmri_lake.segmentation.quality.components.remove_small`.

    Returns
    -------
    Dataset
        `dess` with `bone` (exam, slice, row, column) uint8, 255 outside the extent of an exam;
        `bone_uncertainty` float32, 0 to 1, if there are several networks: the fraction of networks
        whose own label differs; `bone_removed` (exam), the number of removed voxels; and the same
        variables of `cartilage`. Existing variables of these names are replaced. One Dask task per
        exam computes all variables. Masks are not checked: see
        `qmri_lake.segmentation.quality.checks.check_mask`.

    Raises
    ------
    NotFoundError
        If a required variable is missing, or there is no network.
    InputError
        If a model is not a network, weights do not fit, or volumes are incomplete. When computed:
        if an image has no signal, a volume is too small for a network, the voxel size differs from
        that of the training, or weights have changed.
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
        for variable in REGISTRY.variables_of(f"segment_{task}")
        if not (variable.name.endswith("_uncertainty") and len(ensemble) == 1)
        and not (variable.name.endswith("_removed") and not remove_small)
    ]
    dims = {"image": VOLUME_DIMS, "affine": ("world", "voxel"), "extent": ("axis",), "knee": ()}
    kernel = functools.partial(
        _segment_inside, made=made, ensembles=list(tasks.values()), remove_small=bool(remove_small)
    )
    masks = map_exams(kernel, {name: (dims[name], a) for name, a in inputs.items()}, made)
    # Existing variables that are not computed here come from other networks and are removed.
    stored = [v.name for task in tasks for v in REGISTRY.variables_of(f"segment_{task}")]
    return dess.drop_vars([name for name in stored if name in dess]).assign(masks)


def _inputs(dess: xr.Dataset, sided: bool) -> dict[str, xr.DataArray]:
    """Return the inputs of the kernel, after checking them."""
    needed = ["image", "affine", *(["knee"] if sided else [])]
    for name in needed:
        if name not in dess:
            raise NotFoundError(
                f"no {'coordinate' if name == 'knee' else 'variable'} {name!r}",
                expected=", ".join(needed),
                where="segment",
                todo="Assign the side of the knee: ds.assign_coords(knee='left')."
                if name == "knee"
                else "Load group dess.",
            )
    dims = [str(dim) for dim in dess["image"].dims]
    if "echo" in dims or not set(VOLUME_DIMS) <= set(dims):
        raise InputError(
            f"an image along {', '.join(dims)}",
            expected=f"one along {', '.join(VOLUME_DIMS)}",
            where="segment",
            todo="Load group dess.",
            reason=Reason.INCONSISTENT_GEOMETRY,
        )
    for dim in VOLUME_DIMS:
        if dim in dess.coords and (dess[dim].values != np.arange(dess.sizes[dim])).any():
            raise InputError(
                f"a part of the DESS along {dim}",
                expected="whole volumes",
                where="segment",
                todo="Select voxels of the result.",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )
    return {name: dess[name] for name in (*needed, "extent") if name in dess}


def _segment_inside(
    image: NDArray[np.float32],
    affine: NDArray[np.float64],
    knee: NDArray[np.str_] | str = "",
    extent: NDArray[np.int32] | None = None,
    *,
    made: Sequence[Variable],
    ensembles: Sequence[Sequence[Member]],
    remove_small: bool,
) -> list[Array]:
    """Segment the voxels inside the extent of one exam."""
    found: dict[str, Array] = {}
    for members in ensembles:
        found |= _segment_exam(image[exam_box(extent)], affine, str(knee), members, remove_small)
    return [found[variable.name] for variable in made]
