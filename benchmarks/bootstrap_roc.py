"""Bootstrapped AUC, sensitivity and specificity against scikit-learn's AUC of the same resamples.

Usage: python -m benchmarks.bootstrap_roc [EXAMS ...]

scikit-learn computes the AUC alone, a resample at a time; ours all three. The largest distance of
the AUCs is printed. CPU seconds, best of five, interleaved; only the ratio means anything.
"""

from __future__ import annotations

import sys

import numpy as np
import sklearn
from sklearn.metrics import roc_auc_score

from benchmarks.timing import best
from qmri_lake.statistics import bootstrap_roc

RESAMPLES = 100


def compare(exams: int, decimals: int | None) -> str:
    rng = np.random.default_rng(exams)
    label = (rng.random(exams) < 0.3).astype(int)
    score = 1 / (1 + np.exp(-rng.normal(label, 1.0)))
    if decimals is not None:
        score = score.round(decimals)
    indices = rng.integers(exams, size=(RESAMPLES, exams))

    def ours() -> np.ndarray:
        return bootstrap_roc(label, score, indices=indices).samples.sel(metric="auc").values

    def theirs() -> np.ndarray:
        return np.array([roc_auc_score(label[i], score[i]) for i in indices])

    apart = float(np.abs(ours() - theirs()).max())
    seconds = best({"ours": ours, "theirs": theirs})
    ties = "no ties" if decimals is None else f"{len(np.unique(score))} scores"
    return (
        f"{exams:6,} exams, {ties:10s} {1e3 * seconds['ours']:7.2f} ms, scikit-learn "
        f"{1e3 * seconds['theirs']:7.1f} ms {seconds['theirs'] / seconds['ours']:6.1f}x, "
        f"largest distance of AUC {apart:.1e}"
    )


def main(*sizes: str) -> None:
    print(f"{RESAMPLES} resamples, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
    for exams in (int(size) for size in sizes or ("168", "600", "5926", "50000")):
        for decimals in (None, 2):
            print(compare(exams, decimals))


if __name__ == "__main__":
    main(*sys.argv[1:])
