"""Fits of T2 to echo trains."""

from qmri_lake.relaxometry.epg import EpgFit, fit_epg
from qmri_lake.relaxometry.fit_status import FitStatus
from qmri_lake.relaxometry.mono_exponential import MonoExponentialFit, fit_mono_exponential
from qmri_lake.relaxometry.slice_profile import SincPulse

__all__ = [
    "EpgFit",
    "FitStatus",
    "MonoExponentialFit",
    "SincPulse",
    "fit_epg",
    "fit_mono_exponential",
]
