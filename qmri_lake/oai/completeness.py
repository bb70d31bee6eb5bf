"""Detection of missing files of a series by its headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.geometry import Stack
from qmri_lake.oai.header import Header
from qmri_lake.oai.protocol import ECHO_TIMES, classify, is_spin_lock

__all__ = ["Completeness", "assess"]

_TOLERANCE = 0.05
"""Relative tolerance of distances and echo times, which headers round to 1 %. [assumption]"""


_OAI_TOLERANCE = 0.2
"""Relative tolerance between echo times and those of the OAI. [assumption]"""


@dataclass(frozen=True, slots=True)
class Completeness:
    """Missing files of a series, according to its headers."""

    missing: InputError | None = None
    """Error if headers show that slices or echoes are missing; the series is not used."""
    doubt: InputError | None = None
    """Error if end slices may be missing. Parts of larger series also have such headers."""
    proven: bool = False
    """Whether numbers, spacing and count show that no file is missing."""


def assess(headers: Sequence[Header], stack: Stack, where: str) -> Completeness:
    """Compare the files of a series with the number of files that its headers imply.

    For a single slice with several echoes, numbers and counts of slices are not compared, because
    a slice is often exported alone. SpacingBetweenSlices is the distance between the centres of
    neighbouring slices. Some scanners write the gap between slices instead, which is accepted if
    SliceThickness agrees.

    Parameters
    ----------
    headers : sequence of Header
        Headers of all files of the series.
    stack : Stack
        Arrangement of the files.
    where : str
        The series, for messages.
    """
    grid = _Grid(headers, stack)
    missing = grid.skipped_slices() or grid.missing_echoes() or grid.missing_files()
    if missing:
        found, expected, reason = missing
        return Completeness(_incomplete(found, expected, reason, where))
    if disordered := grid.disordered():
        return Completeness(
            InputError(
                disordered,
                expected="slices and echoes numbered in their order",
                where=where,
                todo="Compare the headers with another copy: some may have been exchanged.",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )
        )
    if times := grid.other_echo_times():
        return Completeness(
            InputError(
                times,
                expected="10, 20 ... 70 ms, as in the OAI",
                where=where,
                todo="Correct EchoTime, or SeriesDescription if the series is not from the OAI.",
                reason=Reason.IMPLAUSIBLE_VALUE,
            )
        )
    doubt = None
    if absent := grid.absent_numbers():
        doubt = InputError(
            absent,
            expected="each number from 1 once, without gaps",
            where=where,
            todo="The series was stored. Check that its end slices are there.",
            reason=Reason.NUMBERING_GAP,
        )
    return Completeness(None, doubt, doubt is None and grid.is_proven())


class _Grid:
    """Headers of a series, arranged as (echo, slice)."""

    def __init__(self, headers: Sequence[Header], stack: Stack) -> None:
        self._headers = headers
        self._first = headers[0]
        self._echoes, self._slices = stack.order.shape
        self._times = stack.echo_time
        self._gap = float(np.linalg.norm(stack.affine[:3, 0]))
        self._echo_numbers = np.array([h.echo_number for h in headers])[stack.order]
        numbers = np.array([h.instance_number for h in headers])[stack.order]
        self._numbers: NDArray[np.int64] | None = None
        if np.isfinite(numbers).all() and np.abs(numbers).max() < 2**31:
            self._numbers = numbers.astype(np.int64)

    def skipped_slices(self) -> tuple[str, str, Reason] | None:
        """Return found, expected and reason if one or more slices are missing in every gap."""
        if self._slices < 2:
            return None
        spacing, thickness = abs(self._first.spacing_between_slices), self._first.slice_thickness
        step = self._step()
        if spacing > 0:
            multiple = self._gap / spacing
            gap_written = abs(thickness + spacing - self._gap) <= _TOLERANCE * self._gap
            neighbours = step in (1, self._echoes)
            contiguous = abs(thickness - self._gap) <= _TOLERANCE * self._gap
            if neighbours and (gap_written or contiguous):
                return None
            if gap_written and step is None and spacing < thickness / 2:
                return None
            said = f"SpacingBetweenSlices = {spacing:g} mm"
        elif thickness > 0 and step is not None and step not in (1, self._echoes):
            # Numbers skip exactly the slices that fit between two slices.
            multiple = self._gap / thickness
            if round(multiple) not in (step, step / self._echoes):
                return None
            said = f"SliceThickness = {thickness:g} mm, and numbers in steps of {step}"
        else:
            return None
        if round(multiple) < 2 or abs(multiple - round(multiple)) > _TOLERANCE:
            return None
        return f"slices {self._gap:.3g} mm apart", said, Reason.MISSING_SLICE

    def missing_echoes(self) -> tuple[str, str, Reason] | None:
        """Return found, expected and reason if echoes are missing."""
        found = counted(self._echoes, "echo") if self._echoes == 1 else f"{self._echoes} echoes"
        oai = ECHO_TIMES.get(classify(self._first.series_description), ())
        if self._echoes < len(oai):
            return found, f"{len(oai)}, as in the OAI", Reason.MISSING_ECHO
        if self._echoes < 2:
            return None
        numbers = self._echo_numbers[:, 0]
        if np.isfinite(numbers).all() and (self._echo_numbers == numbers[:, None]).all():
            distinct = np.unique(numbers)
            whole = len(distinct) == self._echoes
            if whole and distinct[-1] - distinct[0] + 1 > self._echoes:
                said = f"EchoNumbers {distinct[0]:.0f} to {distinct[-1]:.0f} without gaps"
                return found, said, Reason.MISSING_ECHO
            if whole and distinct[0] > 1:
                return found, "EchoNumbers from 0 or 1", Reason.MISSING_ECHO
        if is_spin_lock(self._first.series_description):
            return None  # the train is that of the readout
        # Only in a Carr-Purcell train, with times in equal steps, each echo has its own image.
        train = self._first.echo_train_length
        step = float(np.diff(self._times).min())
        multiples = self._times / step
        regular = np.abs(multiples - np.round(multiples)).max() <= _TOLERANCE
        regular = regular and multiples[0] > 0.5
        if self._echoes >= 3 and regular and self._echoes < train < 256:
            if round(float(multiples[-1])) <= train:
                return found, f"EchoTrainLength = {train:.0f}", Reason.MISSING_ECHO
        positions = {h.temporal_position for h in self._headers}
        total = self._first.temporal_positions
        if 1 < len(positions) < total and np.isfinite(list(positions)).all():
            return (
                f"{len(positions)} temporal positions",
                f"NumberOfTemporalPositions = {total:.0f}",
                Reason.MISSING_ECHO,
            )
        return None

    def other_echo_times(self) -> str:
        """Return text on echo times of an OAI series that differ from the protocol, or ""."""
        oai = ECHO_TIMES.get(classify(self._first.series_description), ())
        if len(oai) != self._echoes or np.allclose(self._times, oai, rtol=_OAI_TOLERANCE):
            return ""
        return f"echo times {', '.join(f'{time:g}' for time in self._times)} ms"

    def missing_files(self) -> tuple[str, str, Reason] | None:
        """Return found, expected and reason if the scanner counted more files."""
        total, count = self._first.images_in_acquisition, self._echoes * self._slices
        if self._slices < 2 or not count < total < 1e6:
            return None
        numbers = self._sorted_numbers()
        if self._echoes == 1 and numbers is not None:
            steps = np.unique(np.diff(numbers))
            if len(steps) == 1 and steps[0] > 1 and steps[0] * count >= total:
                return None  # images of another kind, such as phase images, have these numbers
        return (
            counted(count, "file"),
            f"ImagesInAcquisition = {total:.0f}",
            Reason.MISSING_SLICE,
        )

    def disordered(self) -> str:
        """Return how numbers contradict positions or echo times; "" if they agree.

        Numbers may follow any order, such as the order of an interleaved acquisition. A
        contradiction is an order that most echoes or slices share and a few do not. With one echo,
        it is a few slices out of an ascending or descending order.
        """
        if self._numbers is None or self._sorted_numbers() is None:
            return ""
        for lines, noun in ((self._numbers, "slices"), (self._numbers.T, "echoes")):
            count, length = lines.shape
            ranks = np.argsort(np.argsort(lines, axis=1), axis=1)
            patterns, members = np.unique(ranks, axis=0, return_counts=True)
            usual = patterns[members.argmax()]
            if 2 * members.max() <= count:
                continue
            odd = int((ranks != usual).sum())
            if count == 1 and length >= 5:
                ascending = np.arange(length)
                odd = min(int((usual != line).sum()) for line in (ascending, ascending[::-1]))
                odd = odd if odd <= length // 3 else 0
            if odd:
                return f"InstanceNumber contradicts the order of {odd} {noun}"
        return ""

    def absent_numbers(self) -> str:
        """Return text on absent or repeated numbers; "" if other images may have these numbers."""
        numbers = self._sorted_numbers()
        if self._slices == 1 and self._echoes > 1:
            return ""
        if numbers is None:
            return self._repeated_numbers()
        low, high = int(numbers[0]), int(numbers[-1])
        absent = high - len(numbers) + (low == 0)
        spacing = abs(self._first.spacing_between_slices)
        agrees = abs(spacing - self._gap) <= _TOLERANCE * self._gap
        steps = np.unique(np.diff(numbers))
        if low <= 1 and self._echoes == 1 and len(steps) == 1 and agrees:
            return ""
        if absent < 1:
            return ""
        return f"InstanceNumber {low} to {high} for {len(numbers)} images"

    def _repeated_numbers(self) -> str:
        """Return text on numbers of several images, if most images have a unique number."""
        if self._numbers is None or len({header.uid for header in self._headers}) > 1:
            return ""
        distinct, counts = np.unique(self._numbers, return_counts=True)
        if not 0.75 * self._numbers.size <= len(distinct) < self._numbers.size:
            return ""
        repeated = ", ".join(map(str, distinct[counts > 1][:3].tolist()))
        return f"InstanceNumber {repeated} in several images"

    def is_proven(self) -> bool:
        """Return whether numbers, spacing and count show that the series is complete."""
        numbers = self._sorted_numbers()
        spacing = abs(self._first.spacing_between_slices)
        return (
            numbers is not None
            and self._first.images_in_acquisition == len(numbers)
            and int(numbers[0]) in (0, 1)
            and int(numbers[-1] - numbers[0]) == len(numbers) - 1
            and (self._slices < 2 or abs(spacing - self._gap) <= _TOLERANCE * self._gap)
        )

    def _sorted_numbers(self) -> NDArray[np.int64] | None:
        """Return InstanceNumbers in ascending order: of one echo, if all echoes have the same."""
        if self._numbers is None:
            return None
        lines = np.sort(self._numbers, axis=1)
        if self._echoes > 1 and (lines == lines[0]).all():
            lines = lines[:1]
        numbers = np.unique(lines)
        return numbers if len(numbers) == lines.size else None

    def _step(self) -> int | None:
        """Return the step of InstanceNumber between neighbouring slices, if it is constant."""
        if self._numbers is None or self._slices < 2:
            return None
        steps = np.unique(np.abs(np.diff(self._numbers, axis=1)))
        return int(steps[0]) if len(steps) == 1 and steps[0] > 0 else None


def _incomplete(found: str, expected: str, reason: Reason, where: str) -> InputError:
    return InputError(
        found,
        expected=expected,
        where=where,
        todo="Files are missing: copy or download the series again.",
        reason=reason,
    )
