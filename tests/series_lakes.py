"""Small lakes with images of any declared series, and a simulation of a DESS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.step import load_steps
from qmri_lake.lake.lake import Lake, create_lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.status import declare_status
from qmri_lake.store.transaction import (
    Transaction,
    append_exams,
    declare,
    exam_count,
    group_sizes,
)
from tests.fixtures import keys

GAMMA = 2 * math.pi * 42.577478518e6


def simulate_dess(
    t2: float,
    *,
    t1: float = 1200.0,
    tr: float = 20.0,
    te: float = 6.0,
    flip: float = 30.0,
    area: float = 0.0,
    duration: float = 0.0,
    diffusivity: float = 0.0,
    repetitions: int = 300,
    states: int = 30,
) -> tuple[float, float]:
    """Return both echoes of a DESS by extended phase graphs, one repetition after the other.

    Times are in ms, the spoiler is centred in the repetition, and its area is in mT ms/m. Echo 1 is
    the state of order 0 after a pulse, echo 2 the one before the next pulse. Diffusion is that of
    Weigel 2010: each state is attenuated by the square of its order, integrated over time.
    """
    a = math.radians(flip)
    cos2, sin2 = math.cos(a / 2) ** 2, math.sin(a / 2) ** 2
    pulse = np.array(
        [
            [cos2, sin2, math.sin(a)],
            [sin2, cos2, -math.sin(a)],
            [-math.sin(a) / 2, math.sin(a) / 2, math.cos(a)],
        ]
    )
    step = GAMMA * area * 1e-6
    order = np.arange(states) * step
    rest, ramp = (tr - duration) / 2e3, duration / 1e3

    def attenuation(k: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = k + step
        integral = rest * (k**2 + moved**2) + ramp * (k**2 + k * step + step**2 / 3)
        return np.exp(-diffusivity * integral)

    e1, e2 = math.exp(-tr / t1), math.exp(-tr / t2)
    plus, minus, z = np.zeros(states), np.zeros(states), np.zeros(states)
    z[0] = 1.0
    first = second = 0.0
    for _ in range(repetitions):
        plus, minus, z = pulse @ np.stack([plus, minus, z])
        first = plus[0] * math.exp(-te / t2)
        plus, minus = plus * e2 * attenuation(order), minus * e2 * attenuation(-order)
        z = z * e1 * np.exp(-diffusivity * order**2 * tr / 1e3)
        z[0] += 1 - e1
        plus, minus = np.roll(plus, 1), np.append(minus[1:], 0.0)
        plus[0] = minus[0]
        second = minus[0] * math.exp(te / t2)
    return abs(first), abs(second)


def series_lake(path: Path, group: str, exams: Sequence[Mapping[str, ArrayLike]]) -> Lake:
    """A lake with images of one series; each exam has `image`, its times, and more by name."""
    load_steps()
    lake = create_lake(str(path))

    def build(session: Any) -> None:
        append_exams(session, keys(len(exams)))

    commit(lake.repo, build, "Add exams")
    return add_series(lake.refresh(), group, exams)


def add_series(lake: Lake, group: str, exams: Sequence[Mapping[str, ArrayLike]]) -> Lake:
    """Add images of a series, and whatever else an exam has of its group, to the first exams."""
    declared = {variable.name: variable for variable in REGISTRY.group(group)}
    ingested = f"ingest_{group}"
    steps = [ingested, *{declared[name].step: 0 for exam in exams for name in exam}]
    largest = tuple(int(n) for n in np.max([np.shape(exam["image"]) for exam in exams], axis=0))

    def build(session: Any) -> None:
        root = open_root(session.store, "r+")
        for step in dict.fromkeys(steps):
            sizes = group_sizes(root, group) or sizes_of(group, largest)
            declare(root, REGISTRY.variables_of(step), sizes)
            declare_status(root, step, exam_count(root))
        change = Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
        for row, exam in enumerate(exams):
            shape = np.shape(exam["image"])[-3:]
            product = {
                "affine": np.diag([3.0, 0.5, 0.5, 1.0]),
                "extent": np.array(shape),
                "series_uid": np.array(f"1.2.{row}", dtype=object),
                "digest": np.array(f"{row}", dtype=object),
                **exam,
            }
            small = write_exam(
                root,
                [declared[name] for name in product],
                product,
                row,
                f"exam {row}",
                new_extent=True,
            )
            for name, value in small.items():
                change.set_small(name, row, value)
            for step in dict.fromkeys([ingested, *(declared[name].step for name in exam)]):
                change.set_state(step, row, "done", 1)
        change(session)

    commit(lake.repo, build, f"Add {GROUPS[group].label} images")
    return lake.refresh()
