"""Registration, projection and averages of T1rho, T2* and T2 of qDESS."""

from __future__ import annotations

from qmri_lake.fusion import OTHER_BIOMARKERS
from qmri_lake.steps.qdess import qdess_t2
from qmri_lake.steps.quantitative_maps import QuantitativeMap, declare_quantitative_map
from qmri_lake.steps.register_series import registration_step
from qmri_lake.steps.t1rho import t1rho
from qmri_lake.steps.t2star import t2star

__all__ = ["MAPS", "REGISTRATIONS"]

_FITS = {"t1rho": (t1rho, "t1rho"), "t2star": (t2star, "t2star"), "qdess_t2": (qdess_t2, "t2")}
"""Step and variable of each biomarker."""

REGISTRATIONS = {step.group: registration_step(step.group) for step, _ in _FITS.values()}
"""Registration of the DESS to each series, by group."""

MAPS = {
    name: declare_quantitative_map(
        QuantitativeMap(name, step.group, variable, OTHER_BIOMARKERS[name])
    )
    for name, (step, variable) in _FITS.items()
}
"""Steps that project and average each biomarker, by its name."""
