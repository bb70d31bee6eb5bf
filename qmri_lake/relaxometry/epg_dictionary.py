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
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

__all__ = ["LOWEST_B1", "T2_RANGE", "Dictionary", "dictionary", "echo_train"]

Floats = NDArray[np.float64]

T2_RANGE = (5.0, 500.0)
"""Range of T2 in the dictionary, ms. It is wider than the range in cartilage, 20 to 80 ms."""

LOWEST_B1 = 0.4
"""Smallest refocusing angle in the dictionary, relative to 180 degrees."""

STEPS_T2, STEPS_LEAKAGE = 46, 13
"""Numbers of steps of the dictionary. The steps are 10 % of T2 and 0.05 of the leakage, which is
enough to find the right optimum."""


@dataclass(frozen=True)
class Dictionary:
    """Echo trains of one sequence: a dictionary of atoms, and a polynomial between the atoms."""

    spacing: float
    """Echo spacing, ms."""
    q: tuple[float, float]
    """Range of exp(-spacing / T2), from `T2_RANGE`."""
    p: tuple[float, float]
    """Range of the leakage."""
    atoms: NDArray[np.float32]
    """(echo, atom) trains, normalised to norm 1."""
    places: Floats
    """(2, atom): q and p of the atoms."""
    polynomial: Floats
    """(echo, term) factors of T_i(x) T_j(y), with term ``i (degree + 1) + j``. T are Chebyshev's
    polynomials. x and y are q and p, scaled from their ranges to -1 to 1."""
    degree: int
    """Degree in q and in p, which is the number of the last echo."""


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
def dictionary(spacing: float, first: int, last: int, t1: float) -> Dictionary:
    """Return the trains of the echoes `first` to `last`, counted from 1. Times are in ms."""

    def trains(q: Floats, p: Floats) -> Floats:
        t2 = -spacing / np.log(q)
        train = echo_train(t2[:, None], p, spacing=spacing, echoes=last, t1=t1)
        return train[..., first - 1 :]

    low, high = (float(np.exp(-spacing / t2)) for t2 in T2_RANGE)
    most = float(np.cos(LOWEST_B1 * np.pi / 2) ** 2)
    q = np.exp(-spacing / np.geomspace(*T2_RANGE, STEPS_T2 + 1))
    p = np.linspace(0.0, most, STEPS_LEAKAGE + 1)
    atoms = trains(q, p).reshape(q.size * p.size, -1)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    places = np.stack([v.ravel() for v in np.meshgrid(q, p, indexing="ij")])

    # A polynomial of this degree is determined by its values at degree + 1 nodes.
    nodes = chebyshev.chebpts1(last + 1)
    values = trains(low + (high - low) * (nodes + 1) / 2, most * (nodes + 1) / 2)
    inverse = np.linalg.inv(chebyshev.chebvander(nodes, last))
    factors = np.einsum("iq,jp,qpe->eij", inverse, inverse, values)
    return Dictionary(
        spacing,
        (low, high),
        (0.0, most),
        np.ascontiguousarray(atoms.T, np.float32),
        places,
        factors.reshape(len(factors), -1),
        last,
    )
