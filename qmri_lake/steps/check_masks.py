"""Step ``check_masks``: flag implausible masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from qmri_lake.execution.step import step
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable
from qmri_lake.segmentation.quality.checks import check_mask, side_from_anatomy
from qmri_lake.tissues import BONE, CARTILAGE

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
        Variable(
            "dess",
            "anatomical_reason",
            (),
            "string",
            "Reason why the side could not be inferred",
            fill_meaning="not checked, or decided",
            privacy=Privacy.WORD,
        ),
        Variable(
            "dess",
            "checked_tissues",
            (),
            "string",
            "Bones and tissues that were judged: those that the source of the masks can have",
            fill_meaning="not checked",
            privacy=Privacy.WORD,
        ),
    ),
    version="2",
    with_runs=True,
)
def check_masks(dess: xr.Dataset) -> xr.Dataset:
    """Check both masks of one exam, computed or imported; flag the exam if a mask is implausible.

    Only tissues that the source of a mask can have are judged: those in the table of labels of an
    import. Networks label all tissues. If the source is not known, as for masks that were imported
    without a table, all tissues are judged. The side of the knee is inferred from the anatomy and
    compared with the side in the exam key.
    """
    affine, bone, cartilage = (dess[name].values for name in ("affine", "bone", "cartilage"))
    tissues = [*_tissues(dess["bone"], BONE), *_tissues(dess["cartilage"], CARTILAGE)]
    reasons = check_mask(affine, dess.knee.item(), bone=bone, cartilage=cartilage, tissues=tissues)
    side = side_from_anatomy(bone, cartilage, affine, tissues=tissues)
    result = xr.Dataset(
        {
            "anatomical_knee": side.knee or "",
            "anatomical_margin": np.float32(side.margin),
            "anatomical_reason": side.reason,
            "checked_tissues": ", ".join(tissues),
        }
    )
    return result.assign_attrs(flag="; ".join(reasons)) if reasons else result


def _tissues(mask: xr.DataArray, flags: Mapping[str, int]) -> list[str]:
    """Return the tissues of `flags` that the source of a mask can have."""
    table = mask.attrs.get("run", {}).get("parameters", {}).get("tissues")
    return [
        name for name in flags if name != "background" and (not table or name in table.values())
    ]
