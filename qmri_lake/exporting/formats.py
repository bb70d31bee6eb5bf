"""The formats of exports, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import NotFoundError
from qmri_lake.exporting.bids_files import BIDS
from qmri_lake.exporting.dicom_files import DICOM
from qmri_lake.exporting.format_declaration import Format
from qmri_lake.exporting.mat_files import MAT
from qmri_lake.exporting.mesh_files import GIFTI, PLY, VTK
from qmri_lake.exporting.netcdf_files import NETCDF
from qmri_lake.exporting.nifti_files import NIFTI
from qmri_lake.exporting.nrrd_files import NRRD
from qmri_lake.exporting.ome_zarr_files import OME_ZARR
from qmri_lake.exporting.table_files import CSV, PARQUET

__all__ = ["FORMATS", "find_format"]

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        form.name: form
        for form in (
            NIFTI,
            NRRD,
            BIDS,
            DICOM,
            OME_ZARR,
            NETCDF,
            MAT,
            PARQUET,
            CSV,
            VTK,
            PLY,
            GIFTI,
        )
    }
)
"""The formats, in the order of the documentation."""


def find_format(name: str) -> Format:
    """Return the format of a name.

    Raises
    ------
    NotFoundError
        If there is none. The message lists all formats.
    """
    if name not in FORMATS:
        raise NotFoundError(
            f"no format {name!r}",
            expected=f"one of {', '.join(FORMATS)}",
            where="export",
            todo=did_you_mean(name, FORMATS),
        )
    return FORMATS[name]
