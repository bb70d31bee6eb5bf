"""The array-native data lake for quantitative knee MRI.

>>> import qmri_lake as ql
>>> lake = ql.open_lake("oai.lake")  # doctest: +SKIP

Every public name is imported on first use, so that ``import qmri_lake`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

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
    "falls_to",
    "fit_t2",
    "fusion",
    "ingest",
    "ingest_masks",
    "inside",
    "oai",
    "open_lake",
    "phantom",
    "predict",
    "reaches",
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
    from qmri_lake.outcomes import falls_to, reaches
    from qmri_lake.registration import register
    from qmri_lake.relaxometry.step import fit_t2
    from qmri_lake.segmentation.step import segment
    from qmri_lake.splitting import split
    from qmri_lake.steps import Skip, step
    from qmri_lake.surface.region_step import region_means, region_table
    from qmri_lake.surface.step import spherical_maps
    from qmri_lake.surface.template import articular_template
    from qmri_lake.variables import Variable

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=[
        "catalog",
        "diagnosis",
        "errors",
        "fusion",
        "oai",
        "phantom",
        "relaxometry",
        "report",
        "segmentation",
        "statistics",
        "surface",
        "tissues",
    ],
    submod_attrs={
        "cohort": ["Cohort"],
        "compute": ["cluster"],
        "diagnosis.step": ["predict"],
        "ingestion": ["ingest"],
        "lake": ["Lake", "create_lake", "open_lake"],
        "masks": ["inside", "tissue"],
        "masks.files": ["read_mask"],
        "masks.ingest": ["ingest_masks"],
        "oai.dicom": ["read_dicom"],
        "outcomes": ["falls_to", "reaches"],
        "registration": ["register"],
        "relaxometry.step": ["fit_t2"],
        "segmentation.step": ["segment"],
        "splitting": ["split"],
        "steps": ["Skip", "step"],
        "surface.region_step": ["region_means", "region_table"],
        "surface.step": ["spherical_maps"],
        "surface.template": ["articular_template"],
        "variables": ["Variable"],
    },
)
