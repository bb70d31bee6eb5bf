"""Fits of relaxation times to images of several times."""

from qmri_lake.relaxometry.epg import EpgFit, fit_epg
from qmri_lake.relaxometry.fit_status import FitStatus
from qmri_lake.relaxometry.mono_exponential import MonoExponentialFit, fit_mono_exponential
from qmri_lake.relaxometry.qdess import QdessFit, fit_qdess
from qmri_lake.relaxometry.slice_profile import SincPulse

__all__ = [
    "EpgFit",
    "FitStatus",
    "MonoExponentialFit",
    "QdessFit",
    "SincPulse",
    "fit_epg",
    "fit_mono_exponential",
    "fit_qdess",
]
