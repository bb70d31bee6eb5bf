"""Pages and pictures of a lake, for people, and where every number in them comes from."""

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
    from qmri_lake.report.agreement import figure_s3, map_agreement
    from qmri_lake.report.associations import association_table
    from qmri_lake.report.chain_figure import figure_s1
    from qmri_lake.report.class_activation import cam_figure
    from qmri_lake.report.classifier_figures import calibration_figure, roc_figure
    from qmri_lake.report.classifier_tables import classifier_table, published_classifiers
    from qmri_lake.report.html import write_report
    from qmri_lake.report.maps import cohort_atlas, cohort_mean, map_atlas
    from qmri_lake.report.painted import painted_bones
    from qmri_lake.report.paper import write_paper
    from qmri_lake.report.search_figure import figure_s4
    from qmri_lake.report.sets import table_1
    from qmri_lake.report.viewer import write_view

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "agreement": ["figure_s3", "map_agreement"],
        "associations": ["association_table"],
        "chain_figure": ["figure_s1"],
        "class_activation": ["cam_figure"],
        "classifier_figures": ["calibration_figure", "roc_figure"],
        "classifier_tables": ["classifier_table", "published_classifiers"],
        "html": ["write_report"],
        "maps": ["cohort_atlas", "cohort_mean", "map_atlas"],
        "painted": ["painted_bones"],
        "paper": ["write_paper"],
        "search_figure": ["figure_s4"],
        "sets": ["table_1"],
        "viewer": ["write_view"],
    },
)
