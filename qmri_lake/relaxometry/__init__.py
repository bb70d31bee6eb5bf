"""Relaxation times from echo trains."""

from qmri_lake.relaxometry.mono_exponential import (
    FitStatus,
    MonoExponentialFit,
    fit_mono_exponential,
)

__all__ = ["FitStatus", "MonoExponentialFit", "fit_mono_exponential"]
