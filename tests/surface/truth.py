"""What region averages and maps of synthetic knees should be, and how near to it they come."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import linregress

import qmri_lake as ql
from qmri_lake.phantom import knee
from qmri_lake.phantom.exam_truth import Exam, Truth
from qmri_lake.report.figure_s3_agreement import map_agreement
from qmri_lake.surface import BONES
from qmri_lake.surface.occupancy import CARTILAGE_OF, occupancy_of
from qmri_lake.surface.regions import LEAVES, REGIONS_OF, find_compartments
from qmri_lake.surface.spherical_grid import frame
from qmri_lake.surface.spherical_maps import cast_rays
from qmri_lake.surface.surface_points import surface_points
from qmri_lake.tissues import CARTILAGE
from tests.conftest import Judge

BONE_OF = np.array(["femur", "femur", "femur", "tibia", "tibia", "patella"])
"""Of the true surface's own regions."""


def true_means(truth: Truth) -> pd.DataFrame:
    """Return true thickness, thickness_total [mm], denuded [percent] and t2 [ms] by region.

    Thickness is that of the functions that the knee is made of, T2 that of the true map in the true
    labels. Only where the borders lie comes from the masks.
    """
    rows = []
    surface, to_map = truth.surface, frame(truth.exam.side)
    back = to_map @ np.linalg.inv(truth.dess_to_msme) @ truth.msme_affine
    for bone in BONES:
        occupancy = occupancy_of(
            truth.dess_bone, truth.dess_cartilage, truth.dess_affine, bone, to_map
        )
        view = cast_rays(occupancy, bone)
        borders = find_compartments(bone, view.centre, surface_points(occupancy, view, bone))
        here = BONE_OF[surface.region] == bone
        place = surface.point[here].astype(float) @ to_map[:3, :3].T
        thickness, area = surface.thickness[here], surface.area[here].astype(float)
        leaf = borders.of(place)
        voxels = np.argwhere(
            (truth.msme_cartilage == CARTILAGE[CARTILAGE_OF[bone]]) & np.isfinite(truth.t2)
        )
        nearest = cKDTree(place).query(voxels @ back[:3, :3].T + back[:3, 3])[1]
        t2 = truth.t2[tuple(voxels.T)]
        for name, parts in REGIONS_OF[bone].items():
            own = [LEAVES[bone].index(part) for part in parts]
            inside, covered = np.isin(leaf, own), thickness > 0.05
            known, voxels_t2 = inside & covered, t2[np.isin(leaf[nearest], own)]
            if not known.any() or not len(voxels_t2):  # worn away, or beyond the field of view
                rows.append({"region": name})
                continue
            rows.append(
                {
                    "region": name,
                    "thickness": np.average(thickness[known], weights=area[known]),
                    "thickness_total": np.average(thickness[inside], weights=area[inside]),
                    "denuded": 100 * area[inside & ~covered].sum() / area[inside].sum(),
                    "t2": voxels_t2.mean(),
                }
            )
    return pd.DataFrame(rows).set_index("region")


UNITS = {"thickness_total": "mm", "thickness": "mm", "t2": "ms"}
"""What is compared. Thickness is judged over the articular area: margins thinner than half a voxel
are in no mask, so that both sides mean something else by covered."""
COMPARTMENTS = ["P", "TrF", "MF", "LF", "MT", "LT"]


def compare(lake: ql.Lake, chosen: list[Exam], shape: tuple[int, int, int]) -> pd.DataFrame:
    """Region averages of a lake beside the truth, one row an exam and compartment."""
    table = ql.region_table(lake.cohort()).set_index(["exam", "region"])
    rows = []
    for exam in chosen:
        key = f"{exam.patient.number:07d}-{exam.visit.month:03d}m-{exam.side}"
        if (key, "F") not in table.index:
            continue
        true = true_means(knee(exam, shape=shape))
        for region in COMPARTMENTS:
            found = table.loc[(key, region)]
            row = {"exam": key, "region": region}
            for name, unit in UNITS.items():
                row |= {name: found[f"{name} [{unit}]"], f"true_{name}": true.loc[region, name]}
            rows.append(row)
    return pd.DataFrame(rows)


def fitted(table: pd.DataFrame, name: str) -> tuple[str, float, float]:
    """Return slope, correlation and limits of agreement in words; slope; correlation."""
    unit = UNITS[name]
    known = table[[name, f"true_{name}"]].dropna()
    fit = linregress(known[f"true_{name}"], known[name])
    agreement = ql.statistics.bland_altman(known[f"true_{name}"], known[name])
    words = (
        f"{name}: slope {fit.slope:.3f}, r {fit.rvalue:.3f}, bias {agreement.bias:+.2f}, "
        f"limits {agreement.lower:+.2f} to {agreement.upper:+.2f} {unit} (n {len(known)})"
    )
    return words, float(fit.slope), float(fit.rvalue)


def judge_maps(judge: Judge, what: str, lake: ql.Lake, within: float) -> None:
    """Judge the area-weighted means of maps against means over surfaces."""
    cohort = lake.cohort().require("sphere/map").require("region/thickness")
    table = map_agreement(lake.load("sphere", cohort), lake.load("region", cohort))
    table = table[table["biomarker"] == "thickness"]
    bias = {bone: (rows["area"] - rows["source"]).mean() for bone, rows in table.groupby("bone")}
    plain = {bone: (rows["plain"] - rows["source"]).mean() for bone, rows in table.groupby("bone")}
    judge(
        f"end to end / thickness of spherical maps against surfaces, {what}",
        required=f"area-weighted bias below {within} mm",
        measured="; ".join(f"{b} {bias[b]:+.3f} (plain {plain[b]:+.3f}) mm" for b in bias),
        passed=max(map(abs, bias.values())) < within,
    )
