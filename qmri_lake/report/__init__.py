"""Pages and pictures of a lake, for people, and where every number in them comes from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "association_table": "associations",
    "calibration_figure": "classifier_figures",
    "cam_figure": "class_activation",
    "classifier_table": "classifier_tables",
    "cohort_atlas": "maps",
    "cohort_mean": "maps",
    "figure_s3": "agreement",
    "map_agreement": "agreement",
    "map_atlas": "maps",
    "painted_bones": "painted",
    "published_classifiers": "classifier_tables",
    "roc_figure": "classifier_figures",
    "table_1": "sets",
    "write_report": "html",
    "write_view": "viewer",
}

__all__ = [
    "association_table", "calibration_figure", "cam_figure", "classifier_table", "cohort_atlas",
    "cohort_mean", "figure_s3", "map_agreement", "map_atlas", "painted_bones",
    "published_classifiers", "roc_figure", "table_1", "write_report", "write_view",
]  # fmt: skip

if TYPE_CHECKING:
    from qmri_lake.report.agreement import figure_s3, map_agreement
    from qmri_lake.report.associations import association_table
    from qmri_lake.report.class_activation import cam_figure
    from qmri_lake.report.classifier_figures import calibration_figure, roc_figure
    from qmri_lake.report.classifier_tables import classifier_table, published_classifiers
    from qmri_lake.report.html import write_report
    from qmri_lake.report.maps import cohort_atlas, cohort_mean, map_atlas
    from qmri_lake.report.painted import painted_bones
    from qmri_lake.report.sets import table_1
    from qmri_lake.report.viewer import write_view


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"qmri_lake.report.{_HOME[name]}"), name)
    raise AttributeError(f"module 'qmri_lake.report' has no attribute {name!r}")
