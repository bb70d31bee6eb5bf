"""Members of an ensemble: their interface, and a function that opens them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.models.network import Network, find_networks
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import TASKS, Task

__all__ = ["Dtype", "Member", "ModelsLike", "open_members"]

Dtype = Literal["float32", "bfloat16"]
DTYPES: Mapping[str, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""Names of Keras' dtype policies. With bfloat16, only the layers compute in bfloat16. Weights,
logits, softmax and the sum over members are float32."""


@runtime_checkable
class Member(Protocol):
    """Interface of a network in an ensemble, a `Network` or your own, which is sent to workers."""

    @property
    def identity(self) -> str:
        """Identity that a run records: exams are stale if it differs, up to date if it is equal.

        The identity must differ if predictions may differ, for example because the weights, the
        frame or the order of the classes differ.
        """

    @property
    def task(self) -> Task:
        """Bones or cartilage."""

    @property
    def frame(self) -> NetworkView:
        """Flip, crop and scaling of the network's input."""

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Return probabilities (class, slice, row, column), classes as in `qmri_lake.tissues`.

        `spacing` is the distance between voxel centres along the axes of the image, mm.
        """


ModelLike: TypeAlias = str | os.PathLike[str] | Member
"""A folder with one or several networks, or a network."""

ModelsLike: TypeAlias = ModelLike | Sequence[ModelLike]


def open_members(
    models: ModelsLike, *, task: Task | None = None, dtype: str | None = "float32"
) -> list[Member]:
    """Open the members of an ensemble.

    Parameters
    ----------
    models : path, Member, or sequence of them
        Folders written by ``qmri-lake train`` (with one or several networks), open networks, or
        networks of your own.
    task : {"bones", "cartilage"}, optional
        The task that all of them must have.
    dtype : {"float32", "bfloat16"}, optional
        Precision of `Network` members. None: keep the precision with which they were opened.

    Raises
    ------
    NotFoundError
        If there is no network.
    InputError
        If a network has another task, an element is neither a path nor a network, or there is no
        such dtype.
    """
    policy = DTYPES.get(dtype) if isinstance(dtype, str) else None
    if dtype is not None and policy is None:
        raise InputError(
            f"dtype={dtype!r}",
            expected=" or ".join(DTYPES),
            where="segment",
            reason=Reason.UNREADABLE_VALUE,
        )
    members: list[Member] = []
    for item in _listed(models):
        if not isinstance(item, (str, os.PathLike)):
            members.append(_checked_member(item))
        else:
            members += find_networks(os.fspath(item))
    if not members:
        raise NotFoundError(
            "no network",
            expected="at least one network",
            where="models",
            todo="Give a folder written by qmri-lake train, or a network of your own.",
        )
    for n, member in enumerate(members):
        if task is not None and member.task != task:
            raise InputError(
                f"a network for {member.task}",
                expected=f"a network for {task}: {', '.join(TASKS[task])}",
                where=member.identity,
                todo=f"Choose networks that segment {task}.",
                reason=Reason.MODEL_MISMATCH,
            )
        if policy is not None and isinstance(member, Network):
            members[n] = replace(member, dtype=policy)
    return members


def _listed(models: object) -> list[object]:
    if isinstance(models, (str, os.PathLike, Member)) or not isinstance(models, Sequence):
        return [models]
    return list(models)


def _checked_member(item: object) -> Member:
    if isinstance(item, Member):
        return item
    todo = "Wrap a function: ql.segmentation.OwnNetwork(function, labels=...)."
    raise InputError(
        f"a {type(item).__name__}",
        expected="a folder, a Network or an OwnNetwork",
        where="models",
        todo=todo if callable(item) else "",
        reason=Reason.MODEL_MISMATCH,
    )
