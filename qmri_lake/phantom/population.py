"""Patients, visits and latent disease of the synthetic population.

Each patient has a separate random stream, so patient i does not depend on the number of patients.
Each knee has one latent severity that increases with time. The structure in images (thickness,
wear, osteophytes) depends on the *severity*. The KL grade depends on the severity plus a reading
error of the knee. Pain depends on the wear of the medial compartment and on other causes. The
highest AUC that any reader of the images can reach is therefore known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qmri_lake.diagnosis.labels import CHRONIC_MONTHS
from qmri_lake.schema.exam_index import exam_key

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
"""First patient number; none of these patients exists."""

VISITS = {0: "00", 12: "01", 18: "02", 24: "03", 30: "04", 36: "05", 48: "06", 72: "08", 96: "10"}
"""OAI visit number (V##) by month."""

KL_MONTHS = (0, 12, 24, 36, 48, 72, 96)
"""Months of the visits with graded radiographs."""

SIDES = ("right", "left")
"""Order of the knees in this module."""

_KL_STEPS = (-0.75, 0.20, 1.15, 2.30)
"""Thresholds of severity plus reading error for KL 1, 2, 3 and 4."""

READING_ERROR = 0.60
"""Standard deviation of the reading error that is added to the severity before the KL grade is
determined. The standard deviation of the severity is about 1.1."""

PAIN_SLOPE, PAIN_OFFSET = 0.56, -0.1
"""Logit of chronic pain = slope x pain score + offset."""


@dataclass(frozen=True, slots=True)
class Knee:
    """One knee at one visit."""

    kl: int
    severity: float
    """Latent severity of structural disease, as an ideal reader would measure it in the images."""
    wear_medial: float
    wear_lateral: float
    wear_front: float
    pain_score: float
    """Latent structural cause of chronic pain: standardised medial wear minus front wear."""
    pain_months: int
    """Number of months in the past twelve with pain on more than half of the days."""
    any_pain: bool
    """Whether there was any pain in the past twelve months."""
    replaced: bool


@dataclass(frozen=True, slots=True)
class Visit:
    """One patient at one visit."""

    month: int
    days: int
    """Days since enrolment."""
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
    """One patient: constants, and visits in order of time."""

    number: int
    index: int
    sex: int
    """1 for male, 2 for female."""
    age: float
    """Age at enrolment, years."""
    race: int
    cohort: int
    site: str
    enrolled: int
    """Day of enrolment, as a proleptic ordinal."""
    replaced_days: tuple[int | None, int | None]
    """Days from enrolment to the replacement of the right and of the left knee."""
    visits: tuple[Visit, ...]


@dataclass(slots=True)
class _Course:
    """Course of the disease of one knee: constants, and the state up to the current visit."""

    severity: float
    """Severity at enrolment."""
    pace: float
    """Increase of the severity per year."""
    reading_error: float
    """Difference between the grade that a reader gives and the severity."""
    variation: tuple[float, float, float]
    """Standard normal variation of the wear: medial, lateral, front."""
    pain: float
    """Part of the pain logit that does not depend on structure."""
    delay: int
    """Days from KL 4 to a replacement."""
    chooses_replacement: bool
    kl: int = 0
    """Highest grade so far; it never decreases."""
    replaced_day: int | None = None

    def visit(self, month: int, days: int, patient_pain: float, noise: float) -> Knee:
        """Return the knee at a visit. Call this method for the visits in order of time."""
        severity = self.severity + self.pace * month / 12
        self._grade(severity, days)
        medial, lateral, front = _wear(severity, self.kl, self.variation)
        score = 1.4 * ((medial - 0.42) / 0.24) - 0.8 * ((front - 0.20) / 0.15)
        score /= 1.1
        logit = PAIN_SLOPE * score + PAIN_OFFSET
        logit += float(0.62 * self.pain + 0.35 * patient_pain + 0.45 * noise)
        months, any_pain = _pain_months(logit)
        replaced = self.replaced_day is not None and days >= self.replaced_day
        return Knee(self.kl, severity, medial, lateral, front, score, months, any_pain, replaced)

    def _grade(self, severity: float, days: int) -> None:
        """Update the grade; a knee may be replaced some time after it became KL 4."""
        grade = int(np.searchsorted(_KL_STEPS, severity + self.reading_error, side="right"))
        became_worn = self.kl < 4 <= grade
        self.kl = max(grade, self.kl)
        if became_worn and self.chooses_replacement:
            self.replaced_day = days + self.delay


@dataclass(frozen=True, slots=True)
class _Imaging:
    """Visits at which a patient has an MRI."""

    months: frozenset[int]
    left: bool
    """Whether the left knee is also scanned, at the first of these visits."""
    left_t2: bool
    """Whether the left knee also has an MSME series."""

    def sides(self, month: int) -> tuple[str, ...]:
        """Return the sides that are scanned at a visit, unless they have been replaced."""
        if month not in self.months:
            return ()
        return SIDES if self.left and month == min(self.months) else SIDES[:1]


def _wear(
    severity: float, kl: int, variation: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return medial, lateral and front wear: the fraction of thickness lost at the worst point."""
    general = float(np.clip((severity + 1.6) / 4.4, 0.0, 1.15))
    medial = general * 0.95 + 0.04 * variation[0]
    lateral = 0.42 * general + 0.08 * variation[1]
    front = 0.45 * general + 0.11 * variation[2]
    if kl == 4:
        # KL 4 means bone-on-bone contact: no cartilage is left at the worst point.
        medial = max(medial, 1.12)
    top = 1.35 if kl == 4 else 0.88
    return (
        float(np.clip(medial, 0, top)),
        float(np.clip(lateral, 0, 0.8)),
        float(np.clip(front, 0, 0.85)),
    )


def _pain_months(logit: float) -> tuple[int, bool]:
    """Return how many of the past 12 months had frequent pain, and whether there was any pain."""
    if logit > 0.75:
        return min(12, 6 + int(2.2 * (logit - 0.75))), True
    if logit > -0.75:
        return int(np.clip(3 + 2.4 * logit, 0, 5)), True
    return 0, False


# The order of the draws below must not change: it determines every synthetic patient.


def _draw_courses(
    rng: np.random.Generator, severity: float
) -> tuple[tuple[_Course, _Course], float]:
    """Draw the courses of the right and the left knee, and the pain component of the patient."""
    start = [severity + 0.60 * rng.normal() + (0.0 if s == "right" else -0.03) for s in SIDES]
    pace = [float(rng.gamma(1.3, 0.075)) for _ in SIDES]
    error = [float(READING_ERROR * rng.normal()) for _ in SIDES]
    variation = rng.normal(size=(len(SIDES), 3)).tolist()
    pain = [float(rng.logistic()) for _ in SIDES]
    patient_pain = float(rng.logistic())
    delay = [int(rng.integers(150, 1400)) for _ in SIDES]
    chooses = [bool(rng.random() < 0.6) for _ in SIDES]
    right, left = (
        _Course(start[k], pace[k], error[k], tuple(variation[k]), pain[k], delay[k], chooses[k])
        for k in range(len(SIDES))
    )
    return (right, left), patient_pain


def _draw_imaging(rng: np.random.Generator) -> _Imaging:
    main = int(rng.choice([0, 0, 0, 12, 24, 48]))
    count = int(rng.choice(3, p=[0.35, 0.4, 0.25]))
    more = {int(m) for m in rng.choice([12, 24, 36, 48, 72, 96], size=count, replace=False)}
    return _Imaging(frozenset({main} | more), bool(rng.random() < 0.45), bool(rng.random() < 0.3))


def _draw_visit(
    rng: np.random.Generator,
    month: int,
    bmi: float,
    courses: tuple[_Course, _Course],
    patient_pain: float,
    imaging: _Imaging,
) -> Visit:
    days = 0 if month == 0 else round(month * 30.4375 + float(rng.normal(0, 12)))
    missed = bool(rng.random() < 0.08)
    extra = bool(rng.random() < 0.12)
    # Only a few patients had visits at 18 and 30 months.
    attended = (month == 0 or not missed) and (month not in (18, 30) or extra)
    bmi_now = float(np.clip(bmi + 0.008 * month * rng.normal(), 17, 48))
    noise = rng.logistic(size=2)
    right, left = (
        course.visit(month, days, patient_pain, float(value))
        for course, value in zip(courses, noise, strict=True)
    )
    scanned = tuple(
        side for side in imaging.sides(month) if not (right if side == "right" else left).replaced
    )
    return Visit(
        month=month,
        days=days,
        attended=attended or month in imaging.months,
        bmi=bmi_now,
        right=right,
        left=left,
        scanned=scanned,
        t2=tuple(side for side in scanned if side == "right" or imaging.left_t2),
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
    courses, patient_pain = _draw_courses(rng, trend + 0.75 * shared)
    imaging = _draw_imaging(rng)
    visits = tuple(_draw_visit(rng, month, bmi, courses, patient_pain, imaging) for month in VISITS)
    return Patient(
        number=FIRST_PATIENT + index,
        index=index,
        sex=sex,
        age=round(age, 1),
        race=int(rng.choice([0, 1, 2, 3], p=[0.02, 0.79, 0.16, 0.03])),
        cohort=1 if visits[0].right.kl >= 2 else 2,
        site=str(rng.choice(list("ABCDE"))),
        enrolled=enrolled,
        replaced_days=(courses[0].replaced_day, courses[1].replaced_day),
        visits=visits,
    )


def population(n: int, seed: int = 0) -> pd.DataFrame:
    """Return a table of `n` patients with their latent variables.

    Returns
    -------
    DataFrame
        One row per knee and attended visit. Columns: exam (key), patient, timepoint (months), knee,
        age (at the visit, years), sex, bmi, kl, oa (kl >= 2), chronic (1: pain on more than half of
        the days in at least 6 of 12 months; 0: no pain in 12 months; otherwise NaN), pain_months,
        severity, wear_medial, wear_lateral, wear_front, pain_score, replaced, dess and msme
        (whether the exam has this series). KL and latent variables of replaced knees are NaN.
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
                chronic = (
                    1.0
                    if knee.pain_months >= CHRONIC_MONTHS
                    else (np.nan if knee.any_pain else 0.0)
                )
                rows.append(
                    {
                        "exam": exam_key(patient.number, visit.month, side),
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
