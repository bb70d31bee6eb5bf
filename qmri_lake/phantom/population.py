"""Patients, visits and latent disease: who has what, when, and how much of it an image can show.

Each patient has random streams of their own, so patient i is the same whatever the number of
patients. A knee has one latent severity that grows with time. What images show (thickness, wear,
spurs) follows the *severity*; the KL grade that a reader gives follows severity plus an error of
that knee, and pain follows the wear of the medial compartment plus much else: so the best AUC that
any reader of the images can reach is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIRST_PATIENT",
    "KL_MONTHS",
    "VISITS",
    "Knee",
    "Patient",
    "Visit",
    "draw_patient",
    "population",
]

FIRST_PATIENT = 9000001
"""Patient numbers start here; the archive's patients do not exist."""

VISITS = {0: "00", 12: "01", 18: "02", 24: "03", 30: "04", 36: "05", 48: "06", 72: "08", 96: "10"}
"""Month to OAI visit number: V## is not months."""

KL_MONTHS = (0, 12, 24, 36, 48, 72, 96)
"""Visits at which radiographs are read."""

SIDES = ("right", "left")
"""Order of knees everywhere here: right first."""

_KL_STEPS = (-0.75, 0.20, 1.15, 2.30)
"""Severity plus reading error at which KL 1, 2, 3, 4 begin."""

READING_ERROR = 0.60
"""Standard deviation of the error between severity (standard deviation about 1.1) and KL."""

PAIN_SLOPE, PAIN_OFFSET = 0.56, -0.1
"""Logit of chronic pain = slope x pain score + offset."""


@dataclass(frozen=True, slots=True)
class Knee:
    """One knee at one visit."""

    kl: int
    severity: float
    """Latent of structural disease: what an ideal reader would read from the images."""
    wear_medial: float
    wear_lateral: float
    wear_front: float
    pain_score: float
    """Latent of chronic pain: standardised medial minus front wear."""
    pain_months: int
    """Months of the past twelve with pain on more than half the days."""
    any_pain: bool
    """Any pain in the past twelve months."""
    replaced: bool


@dataclass(frozen=True, slots=True)
class Visit:
    """One patient at one visit."""

    month: int
    days: int
    """Since enrolment."""
    attended: bool
    bmi: float
    right: Knee
    left: Knee
    scanned: tuple[str, ...]
    """Sides with an MRI."""
    t2: tuple[str, ...]
    """Sides with an MSME series."""


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient: constants and visits in order."""

    number: int
    index: int
    sex: int
    """1 male, 2 female."""
    age: float
    """Years at enrolment."""
    race: int
    cohort: int
    site: str
    enrolled: int
    """Day of enrolment, as a proleptic ordinal."""
    replaced_days: tuple[int | None, int | None]
    """Days from enrolment to the replacement of the right and of the left knee."""
    visits: tuple[Visit, ...]


def _wear(severity: float, kl: int, own: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return wear (fraction of thickness lost at the worst place): medial, lateral, front."""
    general = float(np.clip((severity + 1.6) / 4.4, 0.0, 1.15))
    medial = general * 0.95 + 0.04 * own[0]
    lateral = 0.42 * general + 0.08 * own[1]
    front = 0.45 * general + 0.11 * own[2]
    if kl == 4:
        # The grade means bone on bone: at its worst place nothing is left.
        medial = max(medial, 1.12)
    top = 1.35 if kl == 4 else 0.88
    return (
        float(np.clip(medial, 0, top)),
        float(np.clip(lateral, 0, 0.8)),
        float(np.clip(front, 0, 0.85)),
    )


def draw_patient(index: int, seed: int = 0) -> Patient:
    """Draw patient `index` (from 0) of the population of a seed."""
    rng = np.random.default_rng([seed, 11, index])
    sex = 1 if rng.random() < 0.42 else 2
    age = float(np.clip(rng.normal(61, 9), 45, 79))
    bmi = float(np.clip(rng.normal(28.3, 4.6), 18.5, 45))
    trend = 0.10 * (age - 61) / 9 + 0.16 * (bmi - 28.3) / 4.6 + 0.06 * (sex - 1.5)
    shared = rng.normal()
    enrolled = 731000 + int(rng.integers(0, 800))
    start = [
        trend + 0.75 * shared + 0.60 * rng.normal() + (0.0 if side == "right" else -0.03)
        for side in SIDES
    ]
    pace = [float(rng.gamma(1.3, 0.075)) for _ in SIDES]
    error = [float(READING_ERROR * rng.normal()) for _ in SIDES]
    own = [tuple(float(v) for v in rng.normal(size=3)) for _ in SIDES]
    hurt = [float(rng.logistic()) for _ in SIDES]
    common_hurt = float(rng.logistic())
    # A worn-out knee is replaced some time after it became KL 4.
    delay = [int(rng.integers(150, 1400)) for _ in SIDES]
    decides = [bool(rng.random() < 0.6) for _ in SIDES]
    first_worn: list[int | None] = [None, None]
    replaced: list[int | None] = [None, None]

    main = int(rng.choice([0, 0, 0, 12, 24, 48]))
    count = int(rng.choice(3, p=[0.35, 0.4, 0.25]))
    more = {int(m) for m in rng.choice([12, 24, 36, 48, 72, 96], size=count, replace=False)}
    imaged = {main} | more
    left_too = rng.random() < 0.45
    both_t2 = rng.random() < 0.3
    highest = [0, 0]
    visits = []
    for month in VISITS:
        days = 0 if month == 0 else round(month * 30.4375 + float(rng.normal(0, 12)))
        missed = rng.random() < 0.08
        extra = rng.random() < 0.12
        attended = (month == 0 or not missed) and (month not in (18, 30) or bool(extra))
        attended = attended or month in imaged
        bmi_now = float(np.clip(bmi + 0.008 * month * rng.normal(), 17, 48))
        noise = rng.logistic(size=2)
        knees = []
        for k in range(2):
            severity = start[k] + pace[k] * month / 12
            kl = int(np.searchsorted(_KL_STEPS, severity + error[k], side="right"))
            kl = highest[k] = max(kl, highest[k])
            if kl == 4 and first_worn[k] is None:
                first_worn[k] = days
                if decides[k]:
                    replaced[k] = days + delay[k]
            medial, lateral, front = _wear(severity, kl, own[k])  # type: ignore[arg-type]
            score = 1.4 * ((medial - 0.42) / 0.24) - 0.8 * ((front - 0.20) / 0.15)
            score /= 1.1
            logit = PAIN_SLOPE * score + PAIN_OFFSET
            logit += float(0.62 * hurt[k] + 0.35 * common_hurt + 0.45 * noise[k])
            if logit > 0.75:
                months, any_pain = min(12, 6 + int(2.2 * (logit - 0.75))), True
            elif logit > -0.75:
                months, any_pain = int(np.clip(3 + 2.4 * logit, 0, 5)), True
            else:
                months, any_pain = 0, False
            gone = replaced[k] is not None and days >= replaced[k]  # type: ignore[operator]
            knees.append(
                Knee(kl, severity, medial, lateral, front, score, months, any_pain, bool(gone))
            )
        here = [k for k in range(2) if not knees[k].replaced]
        scanned = tuple(
            SIDES[k]
            for k in here
            if month in imaged and (k == 0 or (left_too and month == min(imaged)))
        )
        t2 = tuple(s for s in scanned if s == "right" or both_t2)
        visits.append(Visit(month, days, attended, bmi_now, knees[0], knees[1], scanned, t2))
    return Patient(
        number=FIRST_PATIENT + index,
        index=index,
        sex=sex,
        age=round(age, 1),
        race=int(rng.choice([0, 1, 2, 3], p=[0.02, 0.79, 0.16, 0.03])),
        cohort=1 if max(v.right.kl for v in visits[:1]) >= 2 else 2,
        site=str(rng.choice(list("ABCDE"))),
        enrolled=enrolled,
        replaced_days=(replaced[0], replaced[1]),
        visits=tuple(visits),
    )


def population(n: int, seed: int = 0) -> pd.DataFrame:
    """Return the table of `n` patients: one row a knee and attended visit, latents included.

    Columns: exam (key), patient, timepoint (months), knee, age (at the visit, years), sex, bmi, kl,
    oa (kl >= 2), chronic (1 pain on more than half the days in at least 6 of 12 months, 0 none in
    12 months, NaN neither), pain_months, severity, wear_medial, wear_lateral, wear_front,
    pain_score, replaced, dess and msme (whether the exam has one). Rows of replaced knees have KL
    and latents NaN.
    """
    import pandas as pd

    rows = []
    for index in range(n):
        patient = draw_patient(index, seed)
        for visit in patient.visits:
            if not visit.attended:
                continue
            for side in SIDES:
                knee = visit.right if side == "right" else visit.left
                gone = knee.replaced
                chronic = 1.0 if knee.pain_months >= 6 else (np.nan if knee.any_pain else 0.0)
                rows.append(
                    {
                        "exam": f"{patient.number:07d}-{visit.month:03d}m-{side}",
                        "patient": patient.number,
                        "timepoint": visit.month,
                        "knee": side,
                        "age": patient.age + visit.days / 365.25,
                        "sex": patient.sex,
                        "bmi": visit.bmi,
                        "kl": np.nan if gone else float(knee.kl),
                        "oa": np.nan if gone else float(knee.kl >= 2),
                        "chronic": np.nan if gone else chronic,
                        "pain_months": knee.pain_months,
                        "severity": np.nan if gone else knee.severity,
                        "wear_medial": np.nan if gone else knee.wear_medial,
                        "wear_lateral": np.nan if gone else knee.wear_lateral,
                        "wear_front": np.nan if gone else knee.wear_front,
                        "pain_score": np.nan if gone else knee.pain_score,
                        "replaced": gone,
                        "dess": side in visit.scanned,
                        "msme": side in visit.t2,
                    }
                )
    return pd.DataFrame(rows)
