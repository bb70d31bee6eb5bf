"""Array-native data lake for quantitative knee MRI.

>>> import qmri_lake as ql
>>> lake = ql.open_lake("oai.lake")  # doctest: +SKIP

Public names are imported on first use, so that ``import qmri_lake`` is fast.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import lazy_loader

from qmri_lake.core.processor import enable_onednn
from qmri_lake.core.version import __version__

# Silent unless the user configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# This must run before TensorFlow is imported, also in a Dask worker: a worker imports this package
# with its first task.
enable_onednn()

__all__ = [
    "Cohort",
    "Lake",
    "Privacy",
    "Skip",
    "Variable",
    "__version__",
    "articular_template",
    "catalog",
    "cluster",
    "create_lake",
    "dess_from_qdess",
    "diagnosis",
    "errors",
    "export",
    "export_for_editing",
    "falls_to",
    "fit_qdess_t2",
    "fit_t1rho",
    "fit_t2",
    "fit_t2star",
    "fusion",
    "import_edits",
    "ingest",
    "ingest_masks",
    "ingest_table",
    "inside",
    "map_means",
    "oai",
    "open_catalog",
    "open_lake",
    "phantom",
    "predict",
    "project_map",
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
    from qmri_lake.catalog import open_catalog
    from qmri_lake.editing.export import export_for_editing
    from qmri_lake.editing.reimport import import_edits
    from qmri_lake.execution.cluster import cluster
    from qmri_lake.execution.step import Skip, step
    from qmri_lake.exporting.export_exams import export
    from qmri_lake.ingestion.dess_from_qdess import dess_from_qdess
    from qmri_lake.ingestion.images import ingest
    from qmri_lake.ingestion.masks import ingest_masks
    from qmri_lake.ingestion.tables import ingest_table
    from qmri_lake.lake.balanced_split import split
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake, create_lake, open_lake
    from qmri_lake.lake.outcomes import falls_to, reaches
    from qmri_lake.masks import inside, tissue
    from qmri_lake.masks.files import read_mask
    from qmri_lake.oai.dicom import read_dicom
    from qmri_lake.schema.privacy import Privacy
    from qmri_lake.schema.variable import Variable
    from qmri_lake.steps.articular_template import articular_template
    from qmri_lake.steps.predict import predict
    from qmri_lake.steps.qdess import fit_qdess_t2
    from qmri_lake.steps.quantitative_maps import map_means, project_map
    from qmri_lake.steps.regions import region_means, region_table
    from qmri_lake.steps.register import register
    from qmri_lake.steps.segment import segment
    from qmri_lake.steps.spherical_maps import spherical_maps
    from qmri_lake.steps.t1rho import fit_t1rho
    from qmri_lake.steps.t2 import fit_t2
    from qmri_lake.steps.t2star import fit_t2star

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
        "catalog": ["open_catalog"],
        "lake.cohort": ["Cohort"],
        "execution.cluster": ["cluster"],
        "exporting.export_exams": ["export"],
        "steps.predict": ["predict"],
        "editing.export": ["export_for_editing"],
        "editing.reimport": ["import_edits"],
        "ingestion.dess_from_qdess": ["dess_from_qdess"],
        "ingestion.images": ["ingest"],
        "lake.lake": ["Lake", "create_lake", "open_lake"],
        "masks": ["inside", "tissue"],
        "masks.files": ["read_mask"],
        "ingestion.masks": ["ingest_masks"],
        "ingestion.tables": ["ingest_table"],
        "oai.dicom": ["read_dicom"],
        "lake.outcomes": ["falls_to", "reaches"],
        "steps.register": ["register"],
        "steps.t2": ["fit_t2"],
        "steps.t1rho": ["fit_t1rho"],
        "steps.t2star": ["fit_t2star"],
        "steps.qdess": ["fit_qdess_t2"],
        "steps.quantitative_maps": ["map_means", "project_map"],
        "steps.segment": ["segment"],
        "lake.balanced_split": ["split"],
        "execution.step": ["Skip", "step"],
        "steps.regions": ["region_means", "region_table"],
        "steps.spherical_maps": ["spherical_maps"],
        "steps.articular_template": ["articular_template"],
        "schema.privacy": ["Privacy"],
        "schema.variable": ["Variable"],
    },
)
