"""Plans of runs: the exams to compute, counts of the other exams, and the projected memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import format_bytes
from qmri_lake.errors import RunError
from qmri_lake.execution.step import Parameters, Step
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import with_variant
from qmri_lake.store.arrays import Node
from qmri_lake.store.runs import canonical, read_runs
from qmri_lake.store.status import UNKNOWN_RUN, State, StepStatus, read_input_runs, read_status
from qmri_lake.store.transaction import group_sizes

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Exams that a run will compute. A plan itself computes and writes nothing."""

    step: Step
    variant: str
    parameters: Parameters
    inputs: Mapping[str, tuple[str, ...]]
    run: int
    rows: NDArray[np.intp]
    """Positions of the exams to compute, which are pending or stale."""
    up_to_date: int
    failed_before: int
    """Number of exams that failed before and are only computed with ``retry_failed=True``."""
    waiting: Mapping[str, int]
    """Number of exams without an input, by the step that writes the input."""
    projected_bytes: int
    new_sizes: Mapping[str, int]
    replaced: NDArray[np.bool_]
    """Whether each of `rows` has an old result. A run removes it even if it gives no new result."""

    @property
    def name(self) -> str:
        """Name of the status: step and variant."""
        return with_variant(self.step.name, self.variant)

    @property
    def stale(self) -> int:
        """Number of `rows` whose old result has other parameters, code or inputs."""
        return int(self.replaced.sum())

    @property
    def exams_of_a_task(self) -> str:
        """Number of exams in one task, as text for messages."""
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
            f"  memory       {format_bytes(self.projected_bytes):>12} projected for "
            f"{self.exams_of_a_task}"
        )
        return "\n".join(lines)


def make_plan(
    lake: Snapshot,
    step: Step,
    rows: NDArray[np.intp],
    *,
    variant: str = "",
    retry_failed: bool = False,
    parameters: Parameters,
) -> Plan:
    """Find the pending, stale and finished exams of a step; vectorised over all exams.

    An exam is *stale* if its last run had other parameters or another version of the step, or if
    one of its inputs has been computed again since then.

    Raises
    ------
    RunError
        If the name of the variant or a parameter is invalid.
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
    chosen[rows] = True

    same = [
        number
        for number, record in runs.items()
        if (canonical(record["parameters"]), record.get("version")) == wanted
    ]
    # Imported masks and maps are never replaced by later runs.
    imports = [number for number, record in runs.items() if record["step"] == "import"]
    imported = np.isin(status.run, imports)
    # The result, skip or failure of an earlier run with the same parameters is still valid.
    valid = np.isin(status.run, same) | imported
    ready, waiting = chosen.copy(), dict[str, int]()
    for needed in step.needed_steps(values):
        before = read_status(root, needed, length)
        without = ready & ~before.usable
        if without.any():
            waiting[needed] = int(without.sum())
        ready &= before.usable
        valid &= (imported & status.usable) | _is_current(root, name, status, needed, before)

    failed = ready & valid & (status.state == State.FAILED)
    finished = ready & valid & (status.usable | (status.state == State.SKIPPED))
    todo = ready & ~finished
    if not retry_failed:
        todo &= ~failed
    sizes = _sizes_for_output(lake, step, inputs)

    def all_sizes(group: str) -> Mapping[str, int]:
        return sizes if group == step.group else group_sizes(root, group)

    to_compute = np.flatnonzero(todo)
    return Plan(
        step,
        variant,
        values,
        inputs,
        max(runs, default=0) + 1,
        to_compute,
        int(finished.sum()),
        int((failed & ~todo).sum()),
        waiting,
        step.projected_bytes(values, all_sizes) if len(to_compute) else 0,
        sizes,
        status.usable[to_compute],
    )


def _is_current(
    root: Node, name: str, status: StepStatus, needed: str, before: StepStatus
) -> NDArray[np.bool_]:
    """Return whether the results of a step were computed from the present results of `needed`.

    Statuses written by earlier versions do not contain the runs that were read. For them, the order
    of the runs is compared, which is correct if the lake had one writer at a time.
    """
    read = read_input_runs(root, name, needed, len(status.run))
    return np.where(read == UNKNOWN_RUN, before.run <= status.run, before.run == read)


def _sizes_for_output(
    lake: Snapshot, step: Step, inputs: Mapping[str, tuple[str, ...]]
) -> Mapping[str, int]:
    known = group_sizes(lake.root, step.group)
    own = {dim: n for v in step.writes for dim, n in REGISTRY[v.path].sizes.items()}
    if not known and not own and step.group not in inputs:
        for group in inputs:
            known = known or group_sizes(lake.root, group)
    return {**known, **own}


def check_memory(plan: Plan, available: int) -> None:
    """Raise `RunError` if a task of the plan needs more memory than is available."""
    if plan.projected_bytes > available:
        raise RunError(
            f"{format_bytes(plan.projected_bytes)} projected for {plan.exams_of_a_task}",
            expected=f"at most the {format_bytes(available)} of a worker",
            where=f"step {plan.name}",
            todo="Use workers with more memory, or fewer workers.",
        )
