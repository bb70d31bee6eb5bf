"""Readers of OAI deliveries: DICOM series, listings and clinical tables."""

from qmri_lake.oai.clinical import ClinicalTables, read_tables
from qmri_lake.oai.dicom import Volume, read_dicom
from qmri_lake.oai.inventory import Inventory, Repeat, Series, inventory, read_series

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
