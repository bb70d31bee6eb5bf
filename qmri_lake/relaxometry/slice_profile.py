r"""Slice profiles of sinc pulses: signal and refocusing of the sub-slices of an echo train.

The large flip angles of an echo train are not the Fourier transform of the pulse. A pulse is
therefore simulated by Bloch's equations without relaxation. It is divided into short rotations,
whose product is computed with Cayley-Klein parameters :math:`(\alpha, \beta)`, as in the method of
Shinnar and Le Roux (Pauly et al., IEEE Trans Med Imaging 1991).

An excitation of a sub-slice gives the transverse magnetisation :math:`2 \alpha^* \beta`, which the
gradient rephases by half the area of the slice selection. Only its component along the axis of
the refocusing pulses contributes: the other component has opposite signs on both sides of the
slice, and cancels. Between ideal crushers, a refocusing pulse of a symmetric shape acts as a hard
pulse with the leakage :math:`p = |\alpha|^2` of `qmri_lake.relaxometry.epg_dictionary`. The phase
of :math:`\alpha` is the same before and after a pulse, so it acts as a stronger crusher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError

__all__ = ["Pulse", "SincPulse", "as_pulse", "subslices"]

Window = Literal["hamming", "hann", "none"]
_WINDOW: Mapping[Window, float] = {"hamming": 0.46, "hann": 0.5, "none": 0.0}
"""Factor c of a window 1 - c + c cos(2 pi t), where t is -0.5 to 0.5 during the pulse."""

_ROTATIONS = 128
"""Number of rotations that approximate a pulse. Twice as many change a train by less than 1e-5."""

_SUBSLICES = 32
"""Number of sub-slices in half a slice. Twice as many change a train by less than 1e-5."""

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class SincPulse:
    """Sinc pulses of an echo train: 90 degrees for excitation, 180 degrees for refocusing.

    All pulses have the same shape. [assumption] The pulses of OAI's series are not published. The
    defaults reproduce the T2 that has been reported for mono-exponential fits of these series.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    time_bandwidth: float = 4.0
    """Duration times bandwidth, 1 to 20: the number of zero crossings plus 1 of an unfiltered
    sinc."""
    window: Window = "hamming"
    """Filter of the sinc: hamming, hann, or none."""
    refocusing_width: float = 1.0
    """Nominal width of the refocused slice relative to the excited slice, 0.5 to 5."""

    def __post_init__(self) -> None:
        for name, low, high in (("time_bandwidth", 1, 20), ("refocusing_width", 0.5, 5)):
            value = getattr(self, name)
            known = isinstance(value, Real) and not isinstance(value, bool)
            if not (known and low <= float(value) <= high):
                raise InputError(
                    f"{name}={value!r}", expected=f"a number from {low} to {high}", where="pulse"
                )
            object.__setattr__(self, name, float(value))  # a NumPy number counts as equal
        if self.window not in get_args(Window):
            raise InputError(
                f"window={self.window!r}",
                expected=f"one of {', '.join(get_args(Window))}",
                where="pulse",
            )

    def as_mapping(self) -> dict[str, object]:
        """Return all parameters by name, as `as_pulse` accepts them."""
        return asdict(self)


Pulse: TypeAlias = Literal["hard", "sinc"] | Mapping[str, object] | SincPulse
"""Pulses of an echo train: hard pulses, sinc pulses, or sinc pulses with other parameters."""


def as_pulse(pulse: Pulse) -> SincPulse | None:
    """Return the sinc pulse that an argument describes; None for hard pulses.

    Parameters
    ----------
    pulse : {"hard", "sinc"}, mapping or SincPulse
        A mapping gives parameters of `SincPulse`; the others have their defaults.

    Raises
    ------
    InputError
        If the argument is none of these, or a parameter is unknown or out of its range.
    """
    if isinstance(pulse, SincPulse):
        return pulse
    if isinstance(pulse, str) and pulse in ("hard", "sinc"):
        return SincPulse() if pulse == "sinc" else None
    names = SincPulse().as_mapping()
    if not isinstance(pulse, Mapping) or any(name not in names for name in pulse):
        raise InputError(
            f"pulse={pulse!r}", expected=f"hard, sinc, or a mapping with {', '.join(names)}"
        )
    return SincPulse(**cast("dict[str, Any]", dict(pulse)))


def subslices(pulse: SincPulse, b1: Floats) -> tuple[Floats, Floats]:
    """Return the weights and the leakages of the sub-slices of half a slice.

    Parameters
    ----------
    pulse : SincPulse
    b1 : (n,) float64
        Transmit field relative to the nominal field. It scales all pulses, which are simulated
        again for each value.

    Returns
    -------
    weight : (n, sub-slice) float64
        Share of each sub-slice in the signal after the excitation; the sum is 1. It may be
        negative outside the slice.
    leakage : (n, sub-slice) float64
        Leakage of the refocusing pulses, 0 to 1.
    """
    # Beyond this offset, in nominal widths of the slice, the excitation is below 0.1 %.
    reach = 0.5 + 4 / pulse.time_bandwidth
    offset = reach * (np.arange(_SUBSLICES) + 0.5) / _SUBSLICES
    alpha, beta = _rotate(pulse, b1 * math.pi / 2, offset)
    rephase = np.exp(-1j * math.pi * pulse.time_bandwidth * offset)
    weight = -np.imag(2 * alpha.conj() * beta * rephase)
    _, beta = _rotate(pulse, b1 * math.pi, offset / pulse.refocusing_width)
    leakage = np.clip(1 - np.abs(beta) ** 2, 0, 1)
    return weight / weight.sum(axis=1, keepdims=True), leakage


def _rotate(pulse: SincPulse, angle: Floats, offset: Floats) -> tuple[Complex, Complex]:
    """Return alpha and beta (angle, offset) of a pulse about x.

    `angle` [rad] is the flip angle at the centre of the slice, and `offset` the distance from the
    centre in nominal widths.
    """
    time = (np.arange(_ROTATIONS) + 0.5) / _ROTATIONS - 0.5
    factor = _WINDOW[pulse.window]
    shape = np.sinc(pulse.time_bandwidth * time) * (
        1 - factor + factor * np.cos(2 * math.pi * time)
    )
    alpha = np.ones((angle.size, offset.size), complex)
    beta = np.zeros_like(alpha)
    # The gradient acts for half a rotation's duration before and after each rotation.
    half = np.exp(-0.5j * math.pi * pulse.time_bandwidth * offset / _ROTATIONS)
    for part in shape / shape.sum():
        cos, sin = np.cos(angle * part / 2)[:, None], -1j * np.sin(angle * part / 2)[:, None]
        alpha, beta = alpha * half, beta / half
        alpha, beta = cos * alpha + sin * beta, sin * alpha + cos * beta
        alpha, beta = alpha * half, beta / half
    return alpha, beta
