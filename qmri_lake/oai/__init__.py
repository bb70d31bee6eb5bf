"""What an OAI delivery holds: DICOM series, listings and clinical tables, as arrays and rows."""

from qmri_lake.oai.archive import Inventory, Repeat, Series, inventory, read_series
from qmri_lake.oai.clinical import ClinicalTables, read_tables
from qmri_lake.oai.dicom import Volume, read_dicom

__all__ = [
    "ClinicalTables",
    "Inventory",
    "Repeat",
    "Series",
    "Volume",
    "inventory",
    "read_dicom",
    "read_series",
    "read_tables",
]
