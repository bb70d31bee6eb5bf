"""Registration, projection and averages of T1rho, T2* and T2 of qDESS."""

from __future__ import annotations

from qmri_lake.fusion import OTHER_BIOMARKERS
from qmri_lake.steps.quantitative_maps import QuantitativeMap, declare_quantitative_map
from qmri_lake.steps.register_series import registration_step

__all__ = ["MAPS", "REGISTRATIONS"]

# The modules that fit the maps are not imported: each of them imports all installed steps.
_STORED = {"t1rho": ("t1rho", "t1rho"), "t2star": ("t2star", "t2star"), "qdess_t2": ("qdess", "t2")}
"""Group and variable of each biomarker."""

REGISTRATIONS = {group: registration_step(group) for group, _ in _STORED.values()}
"""Registration of the DESS to each series, by group."""

MAPS = {
    name: declare_quantitative_map(QuantitativeMap(name, group, variable, OTHER_BIOMARKERS[name]))
    for name, (group, variable) in _STORED.items()
}
"""Steps that project and average each biomarker, by its name."""
