"""The arrays of a lake that an editor corrects: masks or references, current or in a variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import RunError
from qmri_lake.execution.exam_io import read_exam
from qmri_lake.ingestion.mask_tasks import MASK_VARIABLES
from qmri_lake.schema.variable import with_variant
from qmri_lake.store.arrays import Node
from qmri_lake.store.snapshot import Snapshot
from qmri_lake.store.status import read_status

__all__ = ["KINDS", "MaskArrays", "Masks"]

Masks = Literal["mask", "reference"]

KINDS = ("bone", "cartilage")
"""Kinds of masks, in the order of the steps in `MASK_VARIABLES`."""


class MaskArrays:
    """Names of the arrays and steps of both kinds of masks.

    Parameters
    ----------
    masks : {"mask", "reference"}
        ``dess/bone`` and ``dess/cartilage``, or ``dess/reference_bone`` and so on.
    variant : str
        Variant of the arrays; "" for none.
    """

    def __init__(self, masks: Masks, variant: str = "") -> None:
        if masks not in MASK_VARIABLES:
            raise RunError(
                f"masks = {masks!r}", expected=f"one of {', '.join(MASK_VARIABLES)}", where="masks"
            )
        if variant and not variant.isidentifier():
            raise RunError(f"variant {variant!r}", expected="a name such as edited", where="masks")
        self.masks, self.variant = masks, variant
        self.steps: Mapping[str, str] = dict(zip(KINDS, MASK_VARIABLES[masks], strict=True))
        """Step of each kind, without the variant."""
        self.names: Mapping[str, str] = dict(
            zip(KINDS, MASK_VARIABLES[masks].values(), strict=True)
        )
        """Variable of each kind, without the variant."""

    def path(self, kind: str) -> str:
        """Return the path of the array of a kind."""
        return f"dess/{with_variant(self.names[kind], self.variant)}"

    def status(self, kind: str) -> str:
        """Return the name of the status of a kind."""
        return with_variant(self.steps[kind], self.variant)

    def runs(self, lake: Snapshot) -> dict[str, NDArray[np.int32]]:
        """Return for each kind the run that wrote the mask of each exam; -1 without a mask."""
        found = {}
        for kind in KINDS:
            status = read_status(lake.root, self.status(kind), len(lake))
            found[kind] = np.where(status.usable, status.run, np.int32(-1))
        return found

    def read(self, root: Node, kind: str, row: int) -> NDArray[np.uint8]:
        """Read the mask of one exam, (slice, row, column), cropped to the extent of the exam."""
        name = with_variant(self.names[kind], self.variant)
        return np.asarray(read_exam(root, "dess", [name], row)[name].values, np.uint8)
