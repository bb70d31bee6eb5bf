"""Compiled loop over resamples, which counts pairs, cases, controls and positives."""

from __future__ import annotations

from numba import njit

__all__ = ["count_resamples"]


@njit(cache=True, nogil=True)
def count_resamples(drawn, unit, case, first, positive, times, out):  # type: ignore[no-untyped-def]
    """Count cases, controls, positive cases, negative controls and pairs of each resample.

    drawn (resample, draw): the drawn units, such as patients. unit, case, first and positive are
    (exam,), sorted by increasing score: the unit of the exam; whether it is a case; whether its
    score exceeds the previous score; whether it is classified as a case. times (unit,) is a buffer.
    out (resample, 5) int64: the counts in the order above. A pair whose case has the larger score
    counts 2 and a tie counts 1, so that all counts are integers.
    """
    exams = unit.shape[0]
    for r in range(drawn.shape[0]):
        times[:] = 0
        for k in range(drawn.shape[1]):
            times[drawn[r, k]] += 1
        cases, controls, hits, rejections, twice = 0, 0, 0, 0, 0
        tied_cases, tied_controls = 0, 0
        for k in range(exams):
            if first[k]:
                twice += tied_cases * (2 * controls + tied_controls)
                cases += tied_cases
                controls += tied_controls
                tied_cases = tied_controls = 0
            n = times[unit[k]]
            if case[k]:
                tied_cases += n
                hits += n if positive[k] else 0
            else:
                tied_controls += n
                rejections += 0 if positive[k] else n
        out[r, 0] = cases + tied_cases
        out[r, 1] = controls + tied_controls
        out[r, 2] = hits
        out[r, 3] = rejections
        out[r, 4] = twice + tied_cases * (2 * controls + tied_controls)
