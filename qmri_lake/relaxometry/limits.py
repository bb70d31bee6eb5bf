"""How far and how finely a fit searches: the constants that both implementations share.

Each value was chosen against a dense grid and tight scipy fits, on cartilage, fluid, fat, meniscus,
two components and noise; the tests of the optimum hold them to it. numba freezes them into its
cache and does not see a change of this file alone: after one, delete ``__pycache__`` here.
"""

from __future__ import annotations

__all__ = ["GRID", "HIGHEST", "LAST_STEP", "LOWEST", "NEWTON_STEPS", "REFINEMENTS", "SURE_R2"]

NEWTON_STEPS = 6
"""Enough for 1e-5 in `u` for cartilage; four leave errors of 0.8 ms in the worst voxel."""

LAST_STEP = 1e-5
"""A last step in `u` up to this has settled: convergence is quadratic, 1e-10 is left."""

GRID = 192
"""Points of the search: with 96, one noisy voxel in 100,000 with uneven echoes kept a worse
optimum."""

LOWEST, HIGHEST = 0.04, 1e4
"""Ends of the grid, T2 in units of the echo spacing. At the low end the second echo is 1e-11 of
the first, and a faster decay is the same to it; at the high end seven echoes differ by 0.06 %,
less than any noise."""

REFINEMENTS = 60
"""Steps inside the bracket. Newton needs about five; halving alone would need forty."""

SURE_R2 = 0.9
"""A fit at least this good has one optimum; a worse one is searched on the grid too."""
