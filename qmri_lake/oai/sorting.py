"""Assignment of the series of a delivery to exams and groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, Problem, Reason
from qmri_lake.oai.identity import Identity, identify
from qmri_lake.oai.listing import ListingRow
from qmri_lake.oai.protocol import classify, find_evidence, ignored_kind
from qmri_lake.oai.repeats import Repeat, choose_scan
from qmri_lake.oai.scans import Found, Scan, join_scans, separate_kinds
from qmri_lake.oai.sequence import describe, scan_name
from qmri_lake.oai.series import Part, Series
from qmri_lake.oai.series_index import Candidate, SeriesIndex
from qmri_lake.schema.groups import GROUPS

__all__ = ["Options", "Sorting"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller states about a delivery; None: nothing."""

    patient: int | None = None
    timepoint: int | None = None
    knee: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class _Knee:
    """Series of one exam, before their scans and groups are known."""

    identity: Identity
    sound: list[Found] = field(default_factory=list)
    damaged: list[Found] = field(default_factory=list)


class Sorting:
    """Series of a delivery, sorted by exam and group.

    Attributes
    ----------
    series : list of Series
        Usable scans, one for each exam and group.
    problems : list of Problem
        Of each series that cannot be used.
    repeats : list of Repeat
        Earlier scans that are not used.
    ignored : Counter
        Ignored series and files by kind.
    notes : list of str
        Series that were joined to one scan.
    """

    def __init__(self, gathered: SeriesIndex, options: Options) -> None:
        self.series: list[Series] = []
        self.problems: list[Problem] = gathered.problems
        self.repeats: list[Repeat] = []
        self.ignored: Counter[str] = gathered.ignored
        self.notes: list[str] = []
        self._candidates, self._listing = gathered.candidates, gathered.listing
        self._options = options
        self._knees: dict[str, _Knee] = {}

    def sort(self, chosen: Iterable[str] | None = None) -> None:
        """Sort the series, or those that are `chosen` by UID, description or folder.

        Raises
        ------
        InputError
            No series has a name in `chosen`.
        """
        wanted = None if chosen is None else {text.strip().casefold(): text for text in chosen}
        unused = dict(wanted or {})
        for candidate in self._candidates:
            header = candidate.header
            listed = self._listing.find(candidate.where, header.series_description)
            name = header.series_description or (listed.series_description if listed else "")
            if wanted is not None:
                texts = {text.strip().casefold() for text in (header.uid, name, candidate.where)}
                if not texts & wanted.keys():
                    self.ignored["not chosen"] += 1
                    continue
                for text in texts:
                    unused.pop(text, None)
            self._add(candidate, listed, name, is_chosen=wanted is not None)
        if unused:
            raise self._no_series([*unused.values()])
        for exam, knee in sorted(self._knees.items()):
            self._choose(exam, knee)
        self._note_times()

    def _no_series(self, texts: list[str]) -> InputError:
        names = sorted({c.header.series_description.strip() or c.where for c in self._candidates})
        shown = ", ".join(map(repr, names[:12])) + (" ..." if len(names) > 12 else "")
        return InputError(
            f"no series {', '.join(map(repr, texts))}",
            expected=f"a SeriesInstanceUID, a folder, or a description: {shown or 'none'}",
            where="series",
            todo=did_you_mean(texts[0], names),
            reason=Reason.UNREADABLE_VALUE,
        )

    def _add(
        self, candidate: Candidate, listed: ListingRow | None, name: str, *, is_chosen: bool
    ) -> None:
        """Add a series to its knee, or to the ignored ones or problems."""
        candidate, others = separate_kinds(_check_names(candidate))
        self.ignored.update(f"{other} ({name or 'without a name'})" for other in others)
        study = listed.study_description if listed else ""
        kinds = [
            ignored_kind(
                header,
                header.series_description or name,
                header.study_description or study,
                self._options.group,
                candidate.echo_times,
            )
            for header in candidate.headers
        ]
        kind = kinds[0] if all(kinds) else ""
        named = classify(name)
        if named == "dess" and self._options.group == "qdess":
            named = ""  # it may be one of both echoes
        if not is_chosen and not kind and self._is_other(named):
            kind = f"{named}, not requested"
        if kind and not is_chosen:
            self.ignored[kind] += 1
            return
        whose = self._identify(candidate, listed)
        exam = whose.exam if isinstance(whose, Identity) else ""
        if kind:
            error = _unknown(f"{kind}, which is no signal of a scan", candidate.where)
            self.problems.append(error.problem(exam=exam))
            return
        found = Found(candidate, name)
        fault = candidate.error or candidate.completeness.missing
        if fault is not None and fault.reason == Reason.MISSING_ECHO:
            fault = None  # another series may have the echo
        if isinstance(whose, Identity):
            knee = self._knees.setdefault(exam, _Knee(whose))
            (knee.damaged if fault else knee.sound).append(found)
        # If a file is damaged and the knee is unknown, the damaged file is reported.
        unusable = fault or (whose if isinstance(whose, InputError) else None)
        if unusable is not None:
            self.problems.append(unusable.problem(exam=exam))

    def _identify(self, candidate: Candidate, listed: ListingRow | None) -> Identity | InputError:
        try:
            return identify(
                candidate.where,
                candidate.headers,
                listed,
                patient=self._options.patient,
                timepoint=self._options.timepoint,
                knee=self._options.knee,
            )
        except InputError as error:
            return error

    def _choose(self, exam: str, knee: _Knee) -> None:
        """Join the series of a knee to scans, and choose one of each group."""
        groups: dict[str, list[Scan]] = {}
        for scan in join_scans(knee.sound, knee.damaged):
            if len(scan.parts) > 1 and scan.completeness.missing is None:
                self.notes.append(
                    f"{exam}: joined {len(scan.parts)} series of one scan: "
                    f"{scan.parts[0].name!r}, {scan.times}"
                )
            try:
                group = self._assign(scan)
            except InputError as error:
                self.problems.append(error.problem(exam=exam))
                if error is scan.completeness.missing:
                    knee.damaged.extend(scan.parts)
                continue
            if self._is_other(group):
                self.ignored[f"{group}, not requested"] += len(scan.parts)
            else:
                groups.setdefault(group, []).append(scan)
        for group, scans in sorted(groups.items()):
            damaged = [found for found in knee.damaged if self._group_of(found) == group]
            try:
                last = choose_scan(group, scans, damaged)
                _check_volume(last, group)
            except InputError as error:
                self.problems.append(error.problem(exam=exam))
                continue
            if last.completeness.doubt is not None:
                self.problems.append(last.completeness.doubt.problem(exam=exam))
            self.series.append(_make_series(last, knee.identity, group))
            dropped = (scan for scan in scans if scan is not last)
            for scan in sorted(dropped, key=lambda scan: (scan.scan_order, scan.where)):
                self.repeats.append(Repeat(exam, group, scan.where, last.where))

    def _note_times(self) -> None:
        """Note what maps of the series will assume because the headers do not state it."""
        without = sum(math.isnan(s.parameters.get("gradient_area", 0.0)) for s in self.series)
        if without:
            self.notes.append(
                f"{without} qdess series without the spoiler gradient in the header: T2 will be "
                "computed without diffusion, unless you state the gradient"
            )
        in_echo_time = sum(
            GROUPS[s.group].image_axis == "spin_lock" and s.parts[0].time is None
            for s in self.series
        )
        if in_echo_time:
            self.notes.append(f"{in_echo_time} T1rho series with spin-lock times in EchoTime")

    def _is_other(self, group: str) -> bool:
        """Whether a group is known and not the requested one."""
        return bool(group and self._options.group and group != self._options.group)

    def _group_of(self, damaged: Found) -> str:
        evidence = find_evidence(damaged.name, damaged.candidate.header, ())
        return evidence.group or self._options.group or ""

    def _assign(self, scan: Scan) -> str:
        """Return the group of a scan.

        Raises
        ------
        InputError
            ``unknown_sequence``, or what is missing of the scan.
        """
        name, echoes = scan.parts[0].name, len(scan.sequence.echo_times)
        evidence = find_evidence(name, scan.header, scan.sequence.echo_times)
        group = evidence.group or self._options.group or ""
        facts = f"{name or 'a series without a name'!r}: {describe(scan.sequence, scan.kind)}"
        if len(scan.parts) > 1:
            facts = f"{len(scan.parts)} series of one scan, {facts}"
        if scan.spin_locked and group != evidence.group and GROUPS[group].has_echoes:
            group = ""  # a spin-lock time is no echo time
        if group == "qdess" and self._options.group == "dess":
            group = "dess"  # the user must choose one of its echoes
        if self._is_other(group):
            return group
        doubt = evidence.doubt if evidence.certain or not self._options.group else ""
        if doubt or not group:
            raise _unknown(f"{doubt}; {facts}" if doubt else facts, scan.where)
        if scan.completeness.missing is not None:
            raise scan.completeness.missing
        if GROUPS[group].has_several_images and echoes < 2:
            images = "echoes" if scan.kind == "echo" else "spin-lock times"
            raise _unknown(
                f"one {scan.kind} time in a {group.upper()} series; {facts}",
                scan.where,
                expected=f"all {images} of the scan",
                todo=f"Deliver the series of all its {images} together.",
            )
        return group


def _check_volume(scan: Scan, group: str) -> None:
    """Raise an error if a scan is not one volume, or one volume an echo, of its group."""
    echoes, wanted = len(scan.sequence.echo_times), GROUPS[group].images
    if wanted and echoes != wanted:
        raise InputError(
            f"{scan.times} in {scan.parts[0].name!r}",
            expected=f"{wanted} images in a {group.upper()} series",
            where=scan.where,
            todo="Choose the series with --series and --group.",
            reason=Reason.AMBIGUOUS_SERIES,
        )
    if not GROUPS[group].has_several_images and echoes > 1:
        raise InputError(
            f"{scan.times} in {scan.parts[0].name!r}: none is known to be the {group.upper()}",
            expected="one image",
            where=scan.where,
            todo="Choose the series of one echo with --series and --group, or export the "
            "combined image.",
            reason=Reason.AMBIGUOUS_SERIES,
        )
    if not GROUPS[group].has_several_images and scan.sequence.shape[0] == 1:
        raise InputError(
            f"one slice of a {group.upper()}",
            expected="a volume",
            where=scan.where,
            todo="Copy or download the series again.",
            reason=Reason.MISSING_SLICE,
        )


def _check_names(candidate: Candidate) -> Candidate:
    """Return the series with an error if its files have different descriptions."""
    names = {scan_name(header.series_description): header for header in candidate.headers}
    if len(names) < 2 or candidate.error is not None:
        return candidate
    shown = ", ".join(repr(header.series_description) for header in names.values())
    error = InputError(
        f"one SeriesInstanceUID for {len(names)} descriptions: {shown}",
        expected="one series",
        where=candidate.where,
        todo="Restore SeriesInstanceUID, or move each series to its own folder.",
        reason=Reason.AMBIGUOUS_SERIES,
    )
    return Candidate(candidate.where, candidate.files, candidate.headers, None, error)


def _unknown(
    found: str,
    where: str,
    *,
    expected: str = "a DESS, a multi-echo spin echo, or another declared series",
    todo: str = "If it is one, choose it with --series and name it with --group.",
) -> InputError:
    return InputError(
        found, expected=expected, where=where, todo=todo, reason=Reason.UNKNOWN_SEQUENCE
    )


def _make_series(scan: Scan, identity: Identity, group: str) -> Series:
    sequence = scan.sequence
    echoes = (len(sequence.echo_times),) if GROUPS[group].has_several_images else ()
    acquired = scan.header.acquisition
    parts = tuple(
        Part(
            found.candidate.files,
            found.candidate.where,
            found.candidate.header.uid,
            time if scan.spin_locked else None,
        )
        for found, time in zip(scan.parts, sequence.echo_times, strict=False)
    )
    return Series(
        group=group,
        patient=identity.patient,
        timepoint=identity.timepoint,
        knee=identity.knee,
        exam=identity.exam,
        shape=(*echoes, *sequence.shape),
        parts=parts,
        sequence=sequence,
        scan_order=scan.scan_order,
        synthetic=any(found.candidate.header.synthetic for found in scan.parts),
        parameters={name: getattr(acquired, name) for name in GROUPS[group].parameters},
    )
