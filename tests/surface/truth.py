"""What region averages of a synthetic knee should be: its true surface, parted by our borders."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from qmri_lake.phantom.knee import Truth
from qmri_lake.surface import BONES
from qmri_lake.surface.layout import frame
from qmri_lake.surface.occupancy import CARTILAGE_OF, occupancy_of
from qmri_lake.surface.points import surface_points
from qmri_lake.surface.regions import LEAVES, REGIONS_OF, find_compartments
from qmri_lake.surface.sphere import look_at
from qmri_lake.tissues import CARTILAGE

BONE_OF = np.array(["femur", "femur", "femur", "tibia", "tibia", "patella"])
"""Of the true surface's own regions."""


def true_means(knee: Truth) -> pd.DataFrame:
    """Return true thickness, thickness_total [mm], denuded [percent] and t2 [ms] by region.

    Thickness is that of the functions that the knee is made of, T2 that of the true map in the true
    labels. Only where the borders lie comes from the masks.
    """
    rows = []
    surface, to_map = knee.surface, frame(knee.exam.side)
    back = to_map @ np.linalg.inv(knee.dess_to_msme) @ knee.msme_affine
    for bone in BONES:
        occupancy = occupancy_of(
            knee.dess_bone, knee.dess_cartilage, knee.dess_affine, bone, to_map
        )
        view = look_at(occupancy, bone)
        borders = find_compartments(bone, view.centre, surface_points(occupancy, view, bone))
        here = BONE_OF[surface.region] == bone
        place = surface.point[here].astype(float) @ to_map[:3, :3].T
        thickness, area = surface.thickness[here], surface.area[here].astype(float)
        leaf = borders.of(place)
        voxels = np.argwhere(
            (knee.msme_cartilage == CARTILAGE[CARTILAGE_OF[bone]]) & np.isfinite(knee.t2)
        )
        nearest = cKDTree(place).query(voxels @ back[:3, :3].T + back[:3, 3])[1]
        t2 = knee.t2[tuple(voxels.T)]
        for name, parts in REGIONS_OF[bone].items():
            own = [LEAVES[bone].index(part) for part in parts]
            inside, covered = np.isin(leaf, own), thickness > 0.05
            known = inside & covered
            rows.append(
                {
                    "region": name,
                    "thickness": np.average(thickness[known], weights=area[known]),
                    "thickness_total": np.average(thickness[inside], weights=area[inside]),
                    "denuded": 100 * area[inside & ~covered].sum() / area[inside].sum(),
                    "t2": t2[np.isin(leaf[nearest], own)].mean(),
                }
            )
    return pd.DataFrame(rows).set_index("region")
