"""Ground truth of one exam of the synthetic OAI: anatomy, grids, labels, thickness and T2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom.anatomy import Anatomy, draw_anatomy
from qmri_lake.phantom.grid import (
    FIELD_OF_VIEW,
    MSME_SLICES,
    MSME_SPACING,
    MSME_THICKNESS,
    sagittal_affine,
)
from qmri_lake.phantom.lattice import Lattice, build_lattice
from qmri_lake.phantom.population import Knee, Patient, Visit, draw_patient
from qmri_lake.phantom.pose import Placement, Pose, place, rotation
from qmri_lake.schema.exam_index import exam_key

if TYPE_CHECKING:
    from qmri_lake.phantom.sampling import Sampled
    from qmri_lake.phantom.surface import Surface

__all__ = ["Exam", "Setup", "Truth", "exams", "knee", "sample_dess", "sample_msme", "set_up"]

_SIDES = ("right", "left")
_SMALLEST = (16, 48, 48)


@dataclass(frozen=True, slots=True)
class Exam:
    """One knee of one patient at one visit, with a DESS."""

    patient: Patient
    visit: Visit
    side: Literal["left", "right"]
    seed: int
    """Seed of the population."""

    @property
    def key(self) -> str:
        """The exam key, such as ``9000001-024m-right``."""
        return exam_key(self.patient.number, self.visit.month, self.side)

    @property
    def has_msme(self) -> bool:
        """Whether the exam has a multi-echo series."""
        return self.side in self.visit.t2

    @property
    def knee(self) -> Knee:
        """The latent variables of the knee at this visit."""
        return self.visit.right if self.side == "right" else self.visit.left

    def random(self, stream: int, *, visit: bool = True) -> np.random.Generator:
        """Return the random generator of this exam, or with `visit=False` of this knee.

        The generator of a knee is the same at all visits.
        """
        month = self.visit.month if visit else 999
        return np.random.default_rng(
            [self.seed, stream, self.patient.index, _SIDES.index(self.side), month]
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """Anatomy, placement and grids of an exam."""

    anatomy: Anatomy
    placement: Placement
    shape: tuple[int, int, int]
    dess_affine: NDArray[np.float64]
    msme_shape: tuple[int, int, int]
    msme_affine: NDArray[np.float64]
    dess_to_msme: NDArray[np.float64]
    raised: float
    """Relative increase of cartilage T2 by disease."""
    fat: float
    """Additional thickness of subcutaneous fat, mm in a knee of the reference size."""

    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the corners (LPS, mm) of the box that contains both fields of view."""
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        back = np.linalg.inv(self.dess_to_msme) @ self.msme_affine
        for affine, shape in ((self.dess_affine, self.shape), (back, self.msme_shape)):
            for corner in np.ndindex(2, 2, 2):
                index = [c * n - 0.5 for c, n in zip(corner, shape, strict=True)]
                point = (affine @ [*index, 1.0])[:3]
                low, high = np.minimum(low, point), np.maximum(high, point)
        return low - 0.5, high + 0.5

    def lattice(self, texture: np.random.Generator | None = None) -> Lattice:
        """Evaluate the knee over both fields of view; `texture` adds the soft tissues."""
        low, high = self.box()
        return build_lattice(self.anatomy, self.placement, low, high, fat=self.fat, texture=texture)


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of one exam, on the grids of its two series.

    Attributes
    ----------
    dess_bone, dess_cartilage : (slice, row, column) uint8
        Labels as in `qmri_lake.tissues`.
    dess_affine, msme_affine : (4, 4) float64
        Voxel (slice, row, column) to LPS mm, for each series.
    msme_bone, msme_cartilage : (slice, row, column) uint8
    t2 : (slice, row, column) float32
        Noise-free T2 of voxels entirely inside cartilage, ms; NaN elsewhere.
    dess_to_msme : (4, 4) float64
        Transform T in x_msme = T x_dess, LPS mm: motion of the patient between the series.
    surface : Surface
        Points of the articular surface with cartilage thickness.
    thickness : dict
        Mean thickness (mm) and denuded fraction by region.
    """

    exam: Exam
    anatomy: Anatomy
    dess_bone: NDArray[np.uint8]
    dess_cartilage: NDArray[np.uint8]
    dess_affine: NDArray[np.float64]
    msme_bone: NDArray[np.uint8]
    msme_cartilage: NDArray[np.uint8]
    msme_affine: NDArray[np.float64]
    t2: NDArray[np.float32]
    dess_to_msme: NDArray[np.float64]
    surface: Surface
    thickness: dict[str, float]


def exams(n: int, seed: int = 0, *, first_patient: int = 0) -> list[Exam]:
    """Return the first `n` exams of the population of a seed, ordered by patient and visit.

    With a larger `n`, the first exams remain the same. `first_patient` is the index of the first
    patient.
    """
    out: list[Exam] = []
    for exam in _all_exams(seed, first_patient):
        if len(out) == n:
            break
        out.append(exam)
    return out


def _all_exams(seed: int, first: int) -> Iterator[Exam]:
    for index in count(first):
        patient = draw_patient(index, seed)
        for visit in patient.visits:
            for side in _SIDES:
                if side in visit.scanned:
                    yield Exam(patient, visit, "right" if side == "right" else "left", seed)


def _anatomy(exam: Exam) -> Anatomy:
    own = exam.knee
    healthy = draw_anatomy(
        np.random.default_rng([exam.seed, 21, exam.patient.index]),
        exam.random(22, visit=False),
    )
    # Knees of men are larger. The shifts keep the width in the whole population at 84 +- 6 mm.
    larger = 2.6 if exam.patient.sex == 1 else -1.9
    spread = (healthy.width - 84) * 0.92 + larger
    width = 84 + spread
    factor = (healthy.width / width) ** 0.7
    disease = float(np.clip((own.severity + 0.2) / 2.6, 0, 1.2))
    return replace(
        healthy,
        width=width,
        thickness=(
            healthy.thickness[0] * factor,
            healthy.thickness[1] * factor,
            healthy.thickness[2] * factor,
        ),
        wear_medial=own.wear_medial,
        wear_lateral=own.wear_lateral,
        wear_front=own.wear_front,
        osteophytes=2.6 * disease,
        effusion=float(np.clip(0.1 + 0.4 * disease + 0.1 * exam.random(24).normal(), 0, 1)),
    )


@lru_cache(maxsize=8)
def _set_up(seed: int, index: int, month: int, side: str, shape: tuple[int, int, int]) -> Setup:
    patient = draw_patient(index, seed)
    visit = next(v for v in patient.visits if v.month == month)
    exam = Exam(patient, visit, "right" if side == "right" else "left", seed)
    a, rng = _anatomy(exam), exam.random(23)
    sign = 1.0 if side == "right" else -1.0

    def angle(spread: float) -> float:
        return float(np.clip(spread * rng.normal(), -10, 10))

    pose = Pose(
        knee=exam.side,
        flexion=angle(5.0),
        axial=angle(4.5),
        lean=angle(1.5),
        twist=angle(3.0),
        centre=(
            -sign * float(rng.uniform(70, 95)),
            float(rng.uniform(-15, 15)),
            float(rng.uniform(-12, 12)),
        ),
    )
    placement = place(a, pose)
    offset = np.array(
        [sign * rng.uniform(-2, 4), rng.uniform(0.5, 4.5), np.clip(rng.normal(2.0, 4.0), -7, 11)]
    )
    centre = np.array(pose.centre) + offset
    oblique = sign * float(rng.uniform(2, 6.5))
    spacing = tuple(f / n for f, n in zip(FIELD_OF_VIEW, shape, strict=True))
    dess = sagittal_affine(shape, (spacing[0], spacing[1], spacing[2]), centre, oblique)

    slices = int(np.clip(round((a.width + rng.uniform(6, 14)) / MSME_SPACING), *MSME_SLICES))
    msme_shape = (slices, shape[1], shape[2])
    turn = rotation(*(float(v) for v in rng.uniform(-1.1, 1.1, size=3)))
    shift = rng.uniform(-1.1, 1.1, size=3)
    # The rotation is about the knee, not about the origin of the scanner.
    move = turn.astype(np.float64)
    move[:3, 3] = centre - turn[:3, :3] @ centre + shift
    moved = (move @ [*pose.centre, 1.0])[:3] + offset + rng.normal(size=3)
    msme = sagittal_affine(
        msme_shape, (MSME_SPACING, spacing[1], spacing[2]), moved, oblique + float(rng.normal())
    )
    raised = 0.10 * float(np.clip((exam.knee.severity + 0.5) / 3, 0, 1)) + 0.02 * rng.normal()
    fat = float(np.clip(0.8 * (visit.bmi - 28) / 4.6, -2, 4))
    return Setup(a, placement, shape, dess, msme_shape, msme, move, float(raised), fat)


def set_up(exam: Exam, shape: tuple[int, int, int]) -> Setup:
    """Return anatomy, placement and grids of an exam for DESS volumes of `shape`."""
    if len(shape) != 3 or any(n < m for n, m in zip(shape, _SMALLEST, strict=True)):
        from qmri_lake.errors import InputError

        raise InputError(
            f"shape {shape}",
            expected=f"three numbers (slices, rows, columns) of at least {_SMALLEST}",
            where="phantom",
            todo="Use (40, 96, 96) to test software, (64, 144, 144) to evaluate results.",
        )
    return _set_up(exam.seed, exam.patient.index, exam.visit.month, exam.side, tuple(shape))


def sample_dess(at: Setup, lattice: Lattice) -> Sampled:
    """Return the true labels of an exam on the grid of its DESS."""
    from qmri_lake.phantom.sampling import offsets, sample

    return sample(lattice, at.dess_affine, at.shape, offsets(2, 2, 2))


def sample_msme(at: Setup, lattice: Lattice) -> Sampled:
    """Return the true labels and cartilage depth of an exam on the grid of its MSME."""
    from qmri_lake.phantom.sampling import offsets, sample

    return sample(
        lattice,
        np.linalg.inv(at.dess_to_msme) @ at.msme_affine,
        at.msme_shape,
        offsets(5, 2, 2, MSME_THICKNESS / MSME_SPACING),
    )


def knee(
    exam: Exam,
    *,
    shape: tuple[int, int, int] = (64, 144, 144),
    lattice: Lattice | None = None,
) -> Truth:
    """Return the ground truth of one exam without rendering images.

    Parameters
    ----------
    exam : Exam
        One of `exams`.
    shape : (slices, rows, columns)
        Shape of the DESS. The field of view is always 112 x 140 x 140 mm.
    lattice : Lattice, optional
        The evaluated knee of the exam. Default: the knee is evaluated.
    """
    from qmri_lake.phantom.signal import cartilage_t2
    from qmri_lake.phantom.surface import measure, regional

    at = set_up(exam, shape)
    lattice = lattice if lattice is not None else at.lattice()
    if lattice.values.shape[-1] > 8:
        lattice = replace(lattice, values=np.ascontiguousarray(lattice.values[..., :8]))
    dess, msme = sample_dess(at, lattice), sample_msme(at, lattice)
    t2 = np.where(msme.share > 0.999, cartilage_t2(msme.depth, at.raised), np.float32(np.nan))
    surface = measure(at.anatomy, at.placement, lattice)
    return Truth(
        exam=exam,
        anatomy=at.anatomy,
        dess_bone=dess.bone,
        dess_cartilage=dess.cartilage,
        dess_affine=at.dess_affine,
        msme_bone=msme.bone,
        msme_cartilage=msme.cartilage,
        msme_affine=at.msme_affine,
        t2=t2.astype(np.float32),
        dess_to_msme=at.dess_to_msme,
        surface=surface,
        thickness=regional(surface),
    )
