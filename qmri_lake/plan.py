"""Plans: which exams a run will work on, why the others not, and whether they fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qmri_lake.errors import RunError
from qmri_lake.status import STATE, canonical, read_runs, read_status
from qmri_lake.steps import Step
from qmri_lake.variables import REGISTRY, with_variant
from qmri_lake.writing import group_sizes

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What a run will do. Nothing has been computed or written yet."""

    step: Step
    variant: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, ...]]
    run: int
    rows: np.ndarray[Any, np.dtype[np.intp]]
    """Positions of the exams that will be computed: pending and stale ones."""
    up_to_date: int
    failed_before: int
    """Exams that failed before and are left alone without ``retry_failed=True``."""
    waiting: Mapping[str, int]
    """Exams that lack an input, by the step that makes it."""
    projected_bytes: int
    new_sizes: Mapping[str, int]
    replaced: np.ndarray[Any, np.dtype[np.bool_]]
    """Which of `rows` have a product: its values go, also where no new ones come."""

    @property
    def name(self) -> str:
        """Name of the step's status: with its variant."""
        return with_variant(self.step.name, self.variant)

    @property
    def stale(self) -> int:
        """How many of `rows` were done before, with other parameters, code or inputs."""
        return int(self.replaced.sum())

    @property
    def of_a_task(self) -> str:
        """What one task computes, in words."""
        exams = self.step.exams_a_task
        return "one exam" if exams == 1 else f"{exams} exams"

    def __repr__(self) -> str:
        lines = [
            f"<Plan of run {self.run}: {self.name}>",
            f"  to compute   {len(self.rows):>8,}"
            + (f"  ({self.stale:,} stale)" * bool(self.stale)),
            f"  up to date   {self.up_to_date:>8,}",
        ]
        if self.failed_before:
            lines.append(
                f"  failed before{self.failed_before:>8,}  (retry_failed=True tries again)"
            )
        lines += [f"  waiting      {n:>8,}  for {step}" for step, n in self.waiting.items()]
        lines.append(
            f"  memory       {self.projected_bytes / 2**20:>8,.0f}  MiB projected for "
            f"{self.of_a_task}"
        )
        return "\n".join(lines)


def make_plan(
    lake: Lake,
    step: Step,
    cohort: Cohort,
    *,
    variant: str = "",
    retry_failed: bool = False,
    parameters: Mapping[str, Any],
) -> Plan:
    """Find what is pending, stale or done; whole arrays at once, no loop over exams.

    An exam is *stale* when its last run had other parameters or another version of the step, or
    when a step that it reads has run later.
    """
    if variant and not variant.isidentifier():
        raise RunError(f"variant {variant!r}", expected="a name such as epg", where=step.name)
    values = step.parameters(parameters)
    wanted = (canonical(step.record(values), f"step {step.name}"), step.version)
    inputs = step.inputs(values)
    root, length = lake.root, len(lake.exams)
    runs = read_runs(root)
    name = with_variant(step.name, variant)
    status = read_status(root, name, length)
    chosen = np.zeros(length, dtype=bool)
    chosen[cohort.rows] = True

    same = [
        number
        for number, record in runs.items()
        if (canonical(record["parameters"]), record.get("version")) == wanted
    ]
    # A run named "import" put somebody's masks or maps there: they stay, whatever runs later.
    imports = [number for number, record in runs.items() if record["step"] == "import"]
    imported = np.isin(status.run, imports)
    # What a run of these parameters found still holds, be it a product, a skip or a failure.
    holds = np.isin(status.run, same) | imported
    ready, waiting = chosen.copy(), {}
    for needed in step.needed_steps(values):
        before = read_status(root, needed, length)
        lacking = ready & ~before.usable
        if lacking.any():
            waiting[needed] = int(lacking.sum())
        ready &= before.usable
        holds &= (imported & status.usable) | ~(before.run > status.run)

    failed = ready & holds & (status.state == STATE["failed"])
    finished = ready & holds & (status.usable | (status.state == STATE["skipped"]))
    todo = ready & ~finished
    if not retry_failed:
        todo &= ~failed
    sizes = _sizes_for_output(lake, step, inputs)

    def all_sizes(group: str) -> Mapping[str, int]:
        return sizes if group == step.group else group_sizes(root, group)

    rows = np.flatnonzero(todo)
    return Plan(
        step,
        variant,
        values,
        inputs,
        max(runs, default=0) + 1,
        rows,
        int(finished.sum()),
        int((failed & ~todo).sum()),
        waiting,
        step.projected_bytes(values, all_sizes) if len(rows) else 0,
        sizes,
        status.usable[rows],
    )


def _sizes_for_output(
    lake: Lake, step: Step, inputs: Mapping[str, tuple[str, ...]]
) -> Mapping[str, int]:
    known = group_sizes(lake.root, step.group)
    own = {dim: n for v in step.writes for dim, n in REGISTRY[v.path].sizes.items()}
    if not known and not own and step.group not in inputs:
        for group in inputs:
            known = known or group_sizes(lake.root, group)
    return {**known, **own}


def check_memory(plan: Plan, available: int) -> None:
    """Refuse a plan whose tasks can't fit, before anything runs."""
    if plan.projected_bytes > available:
        raise RunError(
            f"{plan.projected_bytes / 2**30:.1f} GiB projected for {plan.of_a_task}",
            expected=f"at most the {available / 2**30:.1f} GiB that a worker has",
            where=f"step {plan.name}",
            todo="Use workers with more memory, or fewer of them.",
        )
