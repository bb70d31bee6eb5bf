r"""Echo trains of a CPMG sequence by extended phase graphs, and their dictionary.

A 90 degree excitation is followed by equal refocusing pulses of flip angle :math:`\theta`. They are
phase shifted by 90 degrees, so that every configuration stays real. With the *leakage*
:math:`p = \cos^2(\theta/2)`, which is 0 for a perfect refocusing pulse, a pulse mixes the
configurations of one order as

.. math:: F' &= p\,F + (1-p)\,F^* + 2p(1-p)\,z \\
          F^{*\prime} &= (1-p)\,F + p\,F^* - 2p(1-p)\,z \\
          z' &= F^* - F + (2p-1)\,z

where :math:`z` is the longitudinal configuration divided by :math:`\sin(\theta)/2`. (Hennig,
Concepts Magn Reson 1991; Weigel, JMRI 2015.)

The k-th echo is therefore a polynomial of degree k in `p`, and also in :math:`q =
\exp(-\Delta/T_2)` for an echo spacing :math:`\Delta`. The echo is the same for :math:`180° -
\delta` and :math:`180° + \delta`.

With sinc pulses, the leakage varies across the slice. The train is then the weighted sum of the
trains of sub-slices (Lebel and Wilman, Magn Reson Med 2010), and the second coordinate is the
transmit field `b` instead of `p`. The sum is a polynomial in `q`, and a smooth function of `b`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from qmri_lake.relaxometry.slice_profile import SincPulse, subslices

__all__ = ["B1_RANGE", "LOWEST_B1", "T2_RANGE", "Dictionary", "dictionary", "echo_train"]

Floats = NDArray[np.float64]

T2_RANGE = (5.0, 500.0)
"""Range of T2 in the dictionary, ms. It is wider than the range in cartilage, 20 to 80 ms."""

LOWEST_B1 = 0.4
"""Smallest refocusing angle in the dictionary, relative to 180 degrees."""

B1_RANGE = (LOWEST_B1, 1.4)
"""Range of the transmit field in the dictionary of sinc pulses, relative to the nominal field."""

STEPS_T2, STEPS_LEAKAGE, STEPS_B1 = 46, 13, 20
"""Numbers of steps of the dictionary. The steps are 10 % of T2, 0.05 of the leakage and 0.05 of the
transmit field, which is enough to find the right optimum."""


@dataclass(frozen=True)
class Dictionary:
    """Echo trains of one sequence: a dictionary of atoms, and a polynomial between the atoms."""

    spacing: float
    """Echo spacing, ms."""
    q: tuple[float, float]
    """Range of exp(-spacing / T2), from `T2_RANGE`."""
    p: tuple[float, float]
    """Range of the second coordinate: the leakage of hard pulses, or the transmit field."""
    atoms: NDArray[np.float32]
    """(echo, atom) trains, normalised to norm 1."""
    places: Floats
    """(2, atom): q and p of the atoms."""
    polynomial: Floats
    """(echo, term) factors of T_i(x) T_j(y), with term ``i (degree of p + 1) + j``. T are
    Chebyshev's polynomials. x and y are q and p, scaled from their ranges to -1 to 1."""
    degrees: tuple[int, int]
    """Degrees in q and in p. The degree in q, and that in the leakage, is the number of the last
    echo."""
    starts: tuple[slice, ...]
    """Parts of the atoms. The search starts at the best atom of each part, since trains of sinc
    pulses have one optimum on either side of the nominal field."""
    hard: bool
    """Whether the pulses are hard, so that p is the leakage."""


def echo_train(
    t2: ArrayLike, leakage: ArrayLike, *, spacing: float, echoes: int, t1: float
) -> Floats:
    """Return the amplitudes (..., echo) of a train, for a signal of 1 after the excitation.

    `t2` [ms] and `leakage` are broadcast. `spacing` and `t1` are in ms.
    """
    t2, p = np.broadcast_arrays(np.asarray(t2, np.float64), np.asarray(leakage, np.float64))
    e1, e2 = np.exp(-spacing / 2 / t1), np.exp(-spacing / 2 / t2)
    rising, falling, long = (np.zeros((2 * echoes + 2, *t2.shape)) for _ in range(3))
    rising[0] = falling[0] = 1.0
    train = np.empty((*t2.shape, echoes))

    def wait() -> None:
        """Relax for half a spacing; the gradient raises F and lowers F* by one order."""
        rising[1:] = e2 * rising[:-1]
        falling[:-1] = e2 * falling[1:]
        rising[0] = falling[0]
        long[:] *= e1

    for echo in range(echoes):
        wait()
        mixed = 2 * p * (1 - p) * long
        up = p * rising + (1 - p) * falling + mixed
        down = (1 - p) * rising + p * falling - mixed
        long[:] = falling - rising + (2 * p - 1) * long
        rising[:], falling[:] = up, down
        wait()
        train[..., echo] = rising[0]
    return train


@lru_cache(maxsize=8)
def dictionary(
    spacing: float, first: int, last: int, t1: float, pulse: SincPulse | None = None
) -> Dictionary:
    """Return the trains of the echoes `first` to `last`, counted from 1. Times are in ms.

    `pulse` describes the pulses; None: hard pulses.
    """

    def trains(q: Floats, p: Floats) -> Floats:
        t2 = (-spacing / np.log(q))[:, None]
        if pulse is None:
            return echo_train(t2, p, spacing=spacing, echoes=last, t1=t1)[..., first - 1 :]
        parts = [
            weight @ echo_train(t2, leakage, spacing=spacing, echoes=last, t1=t1)
            for weight, leakage in zip(*subslices(pulse, p), strict=True)
        ]
        return np.stack(parts, axis=1)[..., first - 1 :]

    low, high = (float(np.exp(-spacing / t2)) for t2 in T2_RANGE)
    q = np.exp(-spacing / np.geomspace(*T2_RANGE, STEPS_T2 + 1))
    if pulse is None:
        least, most = 0.0, float(np.cos(LOWEST_B1 * np.pi / 2) ** 2)
        p = np.linspace(0.0, most, STEPS_LEAKAGE + 1)
        degree, splits = last, [0, p.size * q.size]
    else:
        least, most = B1_RANGE
        p = np.linspace(least, most, STEPS_B1 + 1)
        # The polynomial deviates from the trains by less than 1e-8.
        degree = 2 * last + 10
        splits = [0, int((p < 0.975).sum()) * q.size, p.size * q.size]
    atoms = trains(q, p)
    places = np.stack(np.meshgrid(q, p, indexing="ij"))
    if pulse is not None:  # the parts of the atoms are intervals of p
        atoms, places = atoms.swapaxes(0, 1), places.swapaxes(1, 2)
    atoms = atoms.reshape(q.size * p.size, -1)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)

    # A polynomial of degree n is determined by its values at n + 1 nodes.
    nodes, more = chebyshev.chebpts1(last + 1), chebyshev.chebpts1(degree + 1)
    values = trains(low + (high - low) * (nodes + 1) / 2, least + (most - least) * (more + 1) / 2)
    factors = np.einsum(
        "iq,jp,qpe->eij",
        np.linalg.inv(chebyshev.chebvander(nodes, last)),
        np.linalg.inv(chebyshev.chebvander(more, degree)),
        values,
    )
    return Dictionary(
        spacing,
        (low, high),
        (least, most),
        np.ascontiguousarray(atoms.T, np.float32),
        places.reshape(2, -1),
        factors.reshape(len(factors), -1),
        (last, degree),
        tuple(slice(*ends) for ends in pairwise(splits)),
        pulse is None,
    )
