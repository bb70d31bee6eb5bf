"""The array-native data lake for quantitative knee MRI.

>>> import qmri_lake as ql
>>> lake = ql.open_lake("oai.lake")  # doctest: +SKIP

Every public name is imported on first use, so that ``import qmri_lake`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Cohort": "cohort",
    "Lake": "lake",
    "Skip": "steps",
    "Variable": "variables",
    "articular_template": "surface.template",
    "cluster": "compute",
    "create_lake": "lake",
    "fit_t2": "relaxometry.step",
    "ingest": "ingestion",
    "ingest_masks": "masks.ingest",
    "inside": "masks",
    "open_lake": "lake",
    "predict": "diagnosis.step",
    "read_dicom": "oai.dicom",
    "read_mask": "masks.files",
    "region_means": "surface.region_step",
    "region_table": "surface.region_step",
    "register": "registration",
    "segment": "segmentation.step",
    "spherical_maps": "surface.step",
    "split": "splitting",
    "step": "steps",
    "tissue": "masks",
}
_MODULES = (
    "catalog", "diagnosis", "errors", "fusion", "oai", "phantom", "relaxometry", "report",
    "segmentation", "statistics", "surface", "tissues",
)  # fmt: skip

__all__ = [
    "Cohort",
    "Lake",
    "Skip",
    "Variable",
    "__version__",
    "articular_template",
    "catalog",
    "cluster",
    "create_lake",
    "diagnosis",
    "errors",
    "fit_t2",
    "fusion",
    "ingest",
    "ingest_masks",
    "inside",
    "oai",
    "open_lake",
    "phantom",
    "predict",
    "read_dicom",
    "read_mask",
    "region_means",
    "region_table",
    "register",
    "relaxometry",
    "report",
    "segment",
    "segmentation",
    "spherical_maps",
    "split",
    "statistics",
    "step",
    "surface",
    "tissue",
    "tissues",
]

if TYPE_CHECKING:
    from qmri_lake import (
        catalog,
        diagnosis,
        errors,
        fusion,
        oai,
        phantom,
        relaxometry,
        report,
        segmentation,
        statistics,
        surface,
        tissues,
    )
    from qmri_lake.cohort import Cohort
    from qmri_lake.compute import cluster
    from qmri_lake.diagnosis.step import predict
    from qmri_lake.ingestion import ingest
    from qmri_lake.lake import Lake, create_lake, open_lake
    from qmri_lake.masks import inside, tissue
    from qmri_lake.masks.files import read_mask
    from qmri_lake.masks.ingest import ingest_masks
    from qmri_lake.oai.dicom import read_dicom
    from qmri_lake.registration import register
    from qmri_lake.relaxometry.step import fit_t2
    from qmri_lake.segmentation.step import segment
    from qmri_lake.splitting import split
    from qmri_lake.steps import Skip, step
    from qmri_lake.surface.region_step import region_means, region_table
    from qmri_lake.surface.step import spherical_maps
    from qmri_lake.surface.template import articular_template
    from qmri_lake.variables import Variable


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"qmri_lake.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"qmri_lake.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'qmri_lake' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
