"""Constants of the mono-exponential search, shared by both implementations.

Each value was chosen by comparison with a dense grid and with scipy fits of small tolerance, for
cartilage, fluid, fat, meniscus, two components and noise. The tests of the optimum check the
values. numba stores them in its cache and does not detect a change of this file alone. After a
change, delete ``__pycache__`` in this folder.
"""

from __future__ import annotations

__all__ = ["GRID", "HIGHEST", "LAST_STEP", "LOWEST", "NEWTON_STEPS", "REFINEMENTS", "SURE_R2"]

NEWTON_STEPS = 6
"""Number of Newton steps. Six steps are enough for 1e-5 in `u` in cartilage; four steps leave an
error of 0.8 ms in the worst voxel."""

LAST_STEP = 1e-5
"""Largest last step in `u` of a converged voxel. Convergence is quadratic, so the remaining error
is about 1e-10."""

GRID = 192
"""Number of points of the grid. With 96 points, one of 100,000 noisy voxels with unevenly spaced
echoes ended in a worse optimum."""

LOWEST, HIGHEST = 0.04, 1e4
"""Ends of the grid: T2 in units of the echo spacing. At the low end, the second echo is 1e-11 of
the first echo, so that a faster decay cannot be distinguished. At the high end, seven echoes differ
by 0.06 %, which is less than any noise."""

REFINEMENTS = 60
"""Largest number of steps inside the bracket. Newton's method needs about five steps; bisection
alone would need forty."""

SURE_R2 = 0.9
"""A fit with at least this r2 has only one optimum. All other voxels are also searched on the
grid."""
