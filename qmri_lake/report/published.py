"""Results that were printed in the paper, to be put beside a lake's own.

Morales et al., *Uncovering Associations Between Data-Driven Learned qMRI Biomarkers and Chronic
Pain*, Sci. Rep. 2021, doi 10.1038/s41598-021-01111-x, and its supplement.
"""

from __future__ import annotations

from typing import NamedTuple

from qmri_lake.statistics.bootstrap import Interval

__all__ = [
    "CHAIN", "CITATION", "OA_EXAMS", "PAIN_P", "SEGMENTATION", "SEGMENTATION_N", "SPLITS",
    "SplitFigures",
]  # fmt: skip

CITATION = "Morales et al. 2021, doi 10.1038/s41598-021-01111-x"


SEGMENTATION: dict[str, dict[str, Interval]] = {
    "femur": {"dsc": Interval(98.0, 97.7, 98.3), "mpts_mm": Interval(0.406, 0.355, 0.457)},
    "tibia": {"dsc": Interval(98.0, 97.7, 98.3), "mpts_mm": Interval(0.390, 0.343, 0.437)},
    "patella": {"dsc": Interval(96.4, 95.7, 97.1), "mpts_mm": Interval(0.370, 0.315, 0.425)},
    "femoral": {"dsc": Interval(90.0, 89.3, 90.7), "mpts_mm": Interval(0.247, 0.226, 0.268)},
    "tibial": {"dsc": Interval(88.6, 86.7, 89.9), "mpts_mm": Interval(0.223, 0.187, 0.259)},
    "patellar": {"dsc": Interval(85.7, 82.5, 88.2), "mpts_mm": Interval(0.555, 0.361, 0.749)},
}
"""Table S1: DSC in %, MPTS in mm; menisci are not in it."""

SEGMENTATION_N = {"bone": 30, "cartilage": 28}
"""Volumes of the test sets behind Table S1."""


class SplitFigures(NamedTuple):
    """One split of the bone networks: volumes, age and BMI as mean and SD, men and women."""

    volumes: int
    age: tuple[float, float]
    bmi: tuple[float, float]
    men: int
    women: int


SPLITS: dict[str, SplitFigures] = {
    "train": SplitFigures(57, (57.2, 7.4), (27.5, 5.2), 31, 26),
    "validation": SplitFigures(15, (60.9, 10.6), (28.9, 4.2), 7, 8),
    "test": SplitFigures(30, (59.4, 7.6), (27.2, 4.7), 11, 19),
}
"""Table 1, bone segmentation."""

OA_EXAMS = {"train": 12634, "validation": 2558, "test": 5926}
"""Right knees of the OA classifiers."""

PAIN_P = {"femur": 7.0e-33, "tibia": 1.9e-14}
"""p of likelihood-ratio tests: what DL-guided thickness adds to that of compartments."""

CHAIN = {"dess": 47078, "msme": 21118, "pain": 7437}
"""Volumes that were segmented, T2 maps, and maps with a label of pain: the counts of Figure S1."""
