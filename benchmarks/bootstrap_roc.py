"""Compare the bootstrap of AUC, sensitivity and specificity with scikit-learn's AUC.

Usage: python -m benchmarks.bootstrap_roc [EXAMS ...]

Both packages use the same resamples. scikit-learn computes only the AUC, one resample at a time;
this package computes all three metrics. The largest difference between the AUCs is printed. Times
are CPU seconds, the best of five interleaved repeats; only their ratio is meaningful.
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

    difference = float(np.abs(ours() - theirs()).max())
    seconds = best({"ours": ours, "theirs": theirs})
    ties = "no ties" if decimals is None else f"{len(np.unique(score))} scores"
    return (
        f"{exams:6,} exams, {ties:10s} {1e3 * seconds['ours']:7.2f} ms, scikit-learn "
        f"{1e3 * seconds['theirs']:7.1f} ms {seconds['theirs'] / seconds['ours']:6.1f}x, "
        f"largest difference of AUC {difference:.1e}"
    )


def main(*sizes: str) -> None:
    print(f"{RESAMPLES} resamples, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
    for exams in (int(size) for size in sizes or ("168", "600", "5926", "50000")):
        for decimals in (None, 2):
            print(compare(exams, decimals))


if __name__ == "__main__":
    main(*sys.argv[1:])
