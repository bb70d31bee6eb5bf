"""Reports, tables and figures of a lake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "association_table",
    "calibration_figure",
    "cam_figure",
    "classifier_table",
    "cohort_atlas",
    "cohort_mean",
    "figure_s1",
    "figure_s3",
    "figure_s4",
    "map_agreement",
    "map_atlas",
    "painted_bones",
    "published_classifiers",
    "roc_figure",
    "table_1",
    "write_paper",
    "write_report",
    "write_view",
]

if TYPE_CHECKING:
    from qmri_lake.diagnosis.evaluation.classifier_tables import (
        classifier_table,
        published_classifiers,
    )
    from qmri_lake.report.association_tables import association_table
    from qmri_lake.report.bone_pictures import painted_bones
    from qmri_lake.report.calibration_plot import calibration_figure
    from qmri_lake.report.cam_figures import cam_figure
    from qmri_lake.report.classifier_figures import roc_figure
    from qmri_lake.report.exam_viewer import write_view
    from qmri_lake.report.figure_s1_chain import figure_s1
    from qmri_lake.report.figure_s3_agreement import figure_s3, map_agreement
    from qmri_lake.report.figure_s4_search import figure_s4
    from qmri_lake.report.lake_report import write_report
    from qmri_lake.report.map_atlases import cohort_atlas, cohort_mean, map_atlas
    from qmri_lake.report.paper import write_paper
    from qmri_lake.report.table_1_sets import table_1

_attached, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "figure_s3_agreement": ["figure_s3", "map_agreement"],
        "association_tables": ["association_table"],
        "figure_s1_chain": ["figure_s1"],
        "cam_figures": ["cam_figure"],
        "calibration_plot": ["calibration_figure"],
        "classifier_figures": ["roc_figure"],
        "lake_report": ["write_report"],
        "map_atlases": ["cohort_atlas", "cohort_mean", "map_atlas"],
        "bone_pictures": ["painted_bones"],
        "paper": ["write_paper"],
        "figure_s4_search": ["figure_s4"],
        "table_1_sets": ["table_1"],
        "exam_viewer": ["write_view"],
    },
)


def __getattr__(name: str) -> object:
    if name in ("classifier_table", "published_classifiers"):
        from qmri_lake.diagnosis.evaluation import classifier_tables

        return getattr(classifier_tables, name)
    return _attached(name)


def __dir__() -> list[str]:
    return list(__all__)
