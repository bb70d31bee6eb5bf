"""Relaxation times from echo trains."""

from qmri_lake.relaxometry.epg import EpgFit, fit_epg
from qmri_lake.relaxometry.mono_exponential import (
    FitStatus,
    MonoExponentialFit,
    fit_mono_exponential,
)

__all__ = ["EpgFit", "FitStatus", "MonoExponentialFit", "fit_epg", "fit_mono_exponential"]
