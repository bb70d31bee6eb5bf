"""Step ``check_masks``: flag implausible masks."""

from __future__ import annotations

import numpy as np
import xarray as xr

from qmri_lake.execution.step import step
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable
from qmri_lake.segmentation.quality.checks import check_mask, side_from_anatomy

__all__ = ["check_masks"]


@step(
    reads={"dess": ("bone", "cartilage", "affine")},
    writes=(
        Variable(
            "dess",
            "anatomical_knee",
            (),
            "string",
            "Side of the knee, inferred from bones and cartilage: left or right",
            fill_meaning="not checked, or undecided",
            privacy=Privacy.WORD,
        ),
        Variable(
            "dess",
            "anatomical_margin",
            (),
            "float32",
            "Margin of the inferred side: 0 (the cues cancel out) to 1.5",
            "",
            "not checked, or no cues",
            valid_range=(0, 1.5),
        ),
    ),
)
def check_masks(dess: xr.Dataset) -> xr.Dataset:
    """Check both masks of one exam, computed or imported; flag the exam if a mask is implausible.

    The side of the knee is inferred from the anatomy and compared with the side in the exam key.
    """
    affine, bone, cartilage = (dess[name].values for name in ("affine", "bone", "cartilage"))
    reasons = check_mask(affine, dess.knee.item(), bone=bone, cartilage=cartilage)
    side = side_from_anatomy(bone, cartilage, affine)
    result = xr.Dataset(
        {"anatomical_knee": side.knee or "", "anatomical_margin": np.float32(side.margin)}
    )
    return result.assign_attrs(flag="; ".join(reasons)) if reasons else result
