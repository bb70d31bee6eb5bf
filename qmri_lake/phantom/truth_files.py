"""Files of the ground truth of a synthetic archive: masks and maps of an exam, and the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmri_lake.diagnosis.labels import CHRONIC_MONTHS
from qmri_lake.phantom.exam_truth import Exam, Setup, Truth

__all__ = ["truth_row", "write_csv", "write_truth"]


def write_truth(path: Path, true: Truth, t2: NDArray[np.float32] | None) -> None:
    """Write the true masks, surface and T2 [ms] of an exam."""
    arrays: dict[str, NDArray[np.generic]] = {
        "dess_bone": true.dess_bone,
        "dess_cartilage": true.dess_cartilage,
        "dess_affine": true.dess_affine,
        "surface_point": true.surface.point,
        "surface_normal": true.surface.normal,
        "surface_thickness": true.surface.thickness,
        "surface_area": true.surface.area,
        "surface_region": true.surface.region,
    }
    if t2 is not None:
        arrays |= {
            "msme_bone": true.msme_bone,
            "msme_cartilage": true.msme_cartilage,
            "msme_affine": true.msme_affine,
            "dess_to_msme": true.dess_to_msme,
            "t2": t2,
        }
    # savez gives all members a fixed date, so that the bytes depend only on the arrays.
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def truth_row(exam: Exam, at: Setup, true: Truth) -> dict[str, object]:
    """Return the row of an exam in ``truth/exams.csv``."""
    own = exam.knee
    chronic = "1" if own.pain_months >= CHRONIC_MONTHS else ("" if own.any_pain else "0")
    return {
        "exam": exam.key,
        "patient": exam.patient.number,
        "timepoint": exam.visit.month,
        "knee": exam.side,
        "seed": exam.seed,
        "patient_index": exam.patient.index,
        "msme": int(exam.has_msme),
        "age": f"{exam.patient.age + exam.visit.days / 365.25:.2f}",
        "sex": exam.patient.sex,
        "bmi": f"{exam.visit.bmi:.1f}",
        "kl": own.kl,
        "oa": int(own.kl >= 2),
        "chronic": chronic,
        "pain_months": own.pain_months,
        "severity": f"{own.severity:.6f}",
        "pain_score": f"{own.pain_score:.6f}",
        "wear_medial": f"{own.wear_medial:.6f}",
        "wear_lateral": f"{own.wear_lateral:.6f}",
        "wear_front": f"{own.wear_front:.6f}",
        "femur_width": f"{at.anatomy.width:.3f}",
        "t2_raised": f"{at.raised:.4f}",
        **{k: f"{v:.4f}" for k, v in true.thickness.items()},
    }


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows with equal keys as a table."""
    lines = [",".join(rows[0])] + [",".join(str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
