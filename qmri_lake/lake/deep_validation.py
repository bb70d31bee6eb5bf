"""Validation of the volumes of all exams of a lake, or of a random sample; it can be resumed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.text import counted
from qmri_lake.errors import RunError
from qmri_lake.lake.validation import exam_faults, shallow_faults
from qmri_lake.store.file_checksums import damaged_files
from qmri_lake.store.repository import first_line

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["Faults", "Progress", "state_file", "validate_lake"]

Progress = Callable[[int, int], object]
"""Called with the number of checked exams and the number to check."""

_log = logging.getLogger(__name__)

_CONFIDENCE = 0.95
_INTERVAL = 10.0
"""Time between two writes of the state [s]."""


class Faults(list[str]):
    """The faults of a lake, one line each, and how many of its exams were read.

    Attributes
    ----------
    exams : int
        Number of exams in the lake.
    checked : int
        Number of exams whose volumes were read; 0 if the validation was not deep.
    faulty : int
        Number of checked exams with a fault in a volume.
    seed : int or None
        Seed of the sample; None if the exams were read in their order.
    """

    def __init__(self, faults: list[str], exams: int, checked: int, faulty: int, seed: int | None):
        super().__init__(faults)
        self.exams, self.checked, self.faulty, self.seed = exams, checked, faulty, seed

    @property
    def coverage(self) -> str:
        """Number of checked exams and, for a sample, an upper limit of the share of faulty exams.

        The largest share of faulty exams is the exact (Clopper-Pearson) one-sided limit at a
        confidence of 95 %. Without a faulty exam, it is about 3 divided by the number of exams.
        """
        text = f"checked the volumes of {self.checked:,} of {counted(self.exams, 'exam')}"
        if self.seed is not None:
            text += f" (seed {self.seed})"
        text += f": {self.faulty:,} with faults"
        if not 0 < self.checked < self.exams:
            return text
        from scipy.stats import binomtest

        test = binomtest(self.faulty, self.checked, alternative="less")
        limit = test.proportion_ci(_CONFIDENCE, method="exact").high
        return f"{text}; at 95 % confidence, at most {100 * limit:.2g} % of all exams are faulty"


def validate_lake(
    lake: Snapshot,
    *,
    deep: bool = False,
    sample: float | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Faults:
    """List the faults of a lake; see `Lake.validate`."""
    if sample is None and not deep:
        if resume:
            raise RunError("resume without deep", expected="deep=True", where=lake.url)
        return Faults(list(shallow_faults(lake)), len(lake), 0, 0, None)
    found = damaged_files(lake.location) + list(shallow_faults(lake))
    order = np.arange(len(lake))
    if sample is not None:
        order = np.random.default_rng(seed).permutation(order)
    wanted = _size(sample, len(lake))
    state = _State(lake, None if sample is None else seed, resume)
    _read(lake, order[:wanted], state, progress)
    volumes = [line for lines in state.faults.values() for line in lines]
    return Faults(
        found + volumes,
        len(lake),
        state.checked,
        len(state.faults),
        None if sample is None else seed,
    )


def _size(sample: float | None, exams: int) -> int:
    """Return the number of exams to check.

    Raises
    ------
    RunError
        If `sample` is neither a number of exams nor a share.
    """
    if sample is None:
        return exams
    if not sample > 0 or (sample > 1 and sample != int(sample)):
        raise RunError(
            f"sample = {sample}",
            expected="a number of exams, such as 500, or a share below 1, such as 0.01",
        )
    whole = sample >= 1
    return min(int(sample) if whole else max(round(sample * exams), 1), exams)


def _read(lake: Snapshot, rows: NDArray[np.intp], state: _State, progress: Progress | None) -> None:
    """Read the volumes of the exams that `state` does not contain yet."""
    state.checked = min(state.checked, len(rows))
    kept = set(lake.exams["exam"].to_numpy()[rows].tolist())
    state.faults = {exam: lines for exam, lines in state.faults.items() if exam in kept}
    check = exam_faults(lake)
    try:
        for row in rows[state.checked :]:
            if progress is not None:
                progress(state.checked, len(rows))
            lines = list(check(int(row)))
            if lines:
                state.faults[str(lake.exams["exam"].iloc[row])] = lines
            state.checked += 1
            state.write_if_due()
        if progress is not None:
            progress(state.checked, len(rows))
    except BaseException:
        state.write()
        raise
    if len(rows) < len(lake):
        state.write()  # validating a larger sample resumes from this state
    else:
        state.remove()


class _State:
    """The checked exams of a validation, in a file of the user's cache; the lake is only read.

    The file belongs to a snapshot and a seed: with the same seed, a larger sample contains the
    smaller one. After another commit, the validation starts again, because the content of the lake
    differs.
    """

    def __init__(self, lake: Snapshot, seed: int | None, resume: bool) -> None:
        self.path = state_file(lake.snapshot, seed)
        self.checked, self.faults = 0, dict[str, list[str]]()
        self._written = time.monotonic()
        if resume and self.path.exists():
            try:
                known = json.loads(self.path.read_text(encoding="utf-8"))
                self.checked, self.faults = int(known["checked"]), dict(known["faults"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise RunError(
                    f"the state of the validation cannot be read ({first_line(error)})",
                    expected="the file of an interrupted validation",
                    where=str(self.path),
                    todo="Validate without resume to start again.",
                ) from error

    def write_if_due(self) -> None:
        if time.monotonic() - self._written > _INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the state. If the folder is not writable, this is only logged."""
        self._written = time.monotonic()
        text = json.dumps({"checked": self.checked, "faults": self.faults})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.path, text, unique=True)
        except OSError as error:
            _log.warning("%s: the validation cannot be resumed (%s)", self.path, error)

    def remove(self) -> None:
        """Remove the state of a complete validation."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def state_file(snapshot: str, seed: int | None) -> Path:
    """Return the file with the state of a deep validation of a snapshot.

    It is in the folder ``qmri_lake`` of ``$XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "all" if seed is None else f"seed-{seed}"
    return cache / "qmri_lake" / f"validate-{snapshot}-{name}.json"
