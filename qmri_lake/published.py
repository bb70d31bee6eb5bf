"""Results printed in the paper, for comparison with those of a lake.

Morales et al., *Uncovering Associations Between Data-Driven Learned qMRI Biomarkers and Chronic
Pain*, Sci. Rep. 2021, doi 10.1038/s41598-021-01111-x, and its supplement.
"""

from __future__ import annotations

from typing import NamedTuple

from qmri_lake.statistics.classification_metrics import Interval

__all__ = [
    "CHAIN",
    "CITATION",
    "OA_EXAMS",
    "PAIN_P",
    "SEARCH_MODELS",
    "SEGMENTATION",
    "SEGMENTATION_N",
    "SPLITS",
    "SplitFigures",
]

CITATION = "Morales et al. 2021, doi 10.1038/s41598-021-01111-x"


SEGMENTATION: dict[str, dict[str, Interval]] = {
    "femur": {"dsc": Interval(98.0, 97.7, 98.3), "mpts_mm": Interval(0.406, 0.355, 0.457)},
    "tibia": {"dsc": Interval(98.0, 97.7, 98.3), "mpts_mm": Interval(0.390, 0.343, 0.437)},
    "patella": {"dsc": Interval(96.4, 95.7, 97.1), "mpts_mm": Interval(0.370, 0.315, 0.425)},
    "femoral": {"dsc": Interval(90.0, 89.3, 90.7), "mpts_mm": Interval(0.247, 0.226, 0.268)},
    "tibial": {"dsc": Interval(88.6, 86.7, 89.9), "mpts_mm": Interval(0.223, 0.187, 0.259)},
    "patellar": {"dsc": Interval(85.7, 82.5, 88.2), "mpts_mm": Interval(0.555, 0.361, 0.749)},
}
"""Table S1: DSC in %, MPTS in mm. The table does not contain the menisci."""

SEGMENTATION_N = {"bone": 30, "cartilage": 28}
"""Number of volumes in the test sets of Table S1."""


class SplitFigures(NamedTuple):
    """One set of the split of the bone networks, with mean and SD of age and BMI."""

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
"""Split of the bone networks, from Table 1."""

OA_EXAMS = {"train": 12634, "validation": 2558, "test": 5926}
"""Number of right knees in each set of the OA classifiers."""

PAIN_P = {"femur": 7.0e-33, "tibia": 1.9e-14}
"""p value of the likelihood-ratio test that adds the DL-guided thickness to a model with the mean
thickness of the compartments."""

SEARCH_MODELS = 612
"""Number of pain models trained in the search."""

CHAIN = {"dess": 47078, "msme": 21118, "pain": 7437}
"""Counts in Figure S1: segmented volumes, T2 maps, and maps with a pain label."""
