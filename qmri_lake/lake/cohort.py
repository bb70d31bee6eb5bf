"""Cohorts: exams selected by conditions, with the number of exams that each condition excluded."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.execution.step import load_steps
from qmri_lake.lake import query as language
from qmri_lake.lake.exam_list import (
    Ids,
    as_list,
    condition,
    name_few,
    read_ids,
    refuse_unknown,
)
from qmri_lake.lake.matching import match
from qmri_lake.lake.outcomes import OutcomeRule
from qmri_lake.lake.reading import load_group, load_groups
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable, with_variant
from qmri_lake.store.columns import unknown_column
from qmri_lake.store.status import STATE, read_status

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["AddedColumn", "Cohort", "Exams", "check_same_lake"]

Exams: TypeAlias = "Cohort | Ids | None"
"""Exams of a lake as an argument: a cohort, a query, a list, or None for all exams."""


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One condition, the number of remaining exams, and the reasons to exclude the others."""

    condition: str
    exams: int
    patients: int
    dropped: int
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class AddedColumn:
    """A column of integers, one for each exam, that a cohort adds to the columns of its lake."""

    description: str
    """One line of prose that describes the values."""
    values: NDArray[np.int64]
    """(exam,), in the order of the cohort's rows; no value is missing."""
    valid_range: tuple[int, int]
    """Inclusive range of the values; (0, 1) for an outcome."""

    def __post_init__(self) -> None:
        self.values.flags.writeable = False


@dataclass(frozen=True, eq=False)
class Cohort:
    """Exams of a lake, selected by conditions. A cohort is immutable: methods return a new cohort.

    ``lake.cohort(query)`` returns a cohort. ``rows`` are positions on the exam axis. ``added``
    contains additional columns by name: outcomes and matched sets. Queries and tables can use these
    columns. A cohort that was selected before a patient was removed from the lake can't be used.
    """

    lake: Snapshot
    positions: NDArray[np.intp]
    """(exam,) positions on the exam axis; `rows` also checks that they are valid."""
    rows_of_flow: tuple[FlowRow, ...]
    added: Mapping[str, AddedColumn] = field(default_factory=dict)
    removals: int = field(default=-1)
    """Number of patients that had been removed from the lake when the cohort was selected."""

    def __post_init__(self) -> None:
        self.positions.flags.writeable = False
        if self.removals < 0:
            object.__setattr__(self, "removals", self.lake.removals)

    @property
    def rows(self) -> NDArray[np.intp]:
        """(exam,) positions on the exam axis; RunError if a patient was removed meanwhile."""
        if self.lake.removals != self.removals:
            raise _outdated(self.lake)
        return self.positions

    @property
    def is_everything(self) -> bool:
        """Whether the cohort contains all exams of the lake, because no condition was applied."""
        return len(self.rows_of_flow) == 1

    @classmethod
    def everything(cls, lake: Snapshot) -> Cohort:
        """Return all exams of a lake."""
        rows = np.arange(len(lake))
        patients = int(np.unique(lake.patients).size)
        return cls(lake, rows, (FlowRow("all exams", len(rows), patients, 0, ""),))

    @classmethod
    def of_keys(cls, lake: Snapshot, wanted: Mapping[str, object]) -> Cohort:
        """Select exams by patient, timepoint, knee or exam; all exams if no key is given."""
        everything = cls.everything(lake)
        if not wanted:
            return everything
        values = {name: as_list(value) for name, value in wanted.items()}
        keep = np.ones(len(lake), dtype=bool)
        if "patient" in values:  # applied first: the others are then read for few exams
            keep &= np.isin(lake.patients, values["patient"])
        rows = np.flatnonzero(keep)
        keys = lake.keys_at(rows)
        for name, among in values.items():
            keep[rows] &= keys[name].isin(among).to_numpy()
            if len(among) > 1:  # the error below names a single value
                own = lake.patients if name == "patient" else lake.exams[name].to_numpy()
                refuse_unknown(name, among, own, lake.url)
        if not keep.any():
            listed = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            raise NotFoundError(
                f"no exam with {listed}",
                expected=f"one of the lake's {len(lake):,} exams",
                where=lake.url,
                todo="lake.exams lists them.",
            )
        text = ", ".join(condition(name, among) for name, among in values.items())
        return everything.keep(keep, text, f"{text} is false")

    def of_ids(self, ids: Ids, *, strict: bool = False) -> Cohort:
        """Keep listed exams, in the lake's order; see `qmri_lake.lake.exam_list.read_ids`.

        If `strict`, listed exams that are not in the cohort raise an error. Otherwise, the flow
        names them, because a published list may have more knees than a lake.
        """
        listed = read_ids(ids)
        keep, absent = listed.find(self.exams)
        if absent and (strict or not keep.any()):
            raise listed.refuse(absent, self.lake.url)
        note = f"{len(absent):,} listed but not in the cohort: {name_few(absent)}" if absent else ""
        return self.keep(keep, listed.condition, "not listed", note=note)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def exams(self) -> pd.DataFrame:
        """Keys of the exams, with columns exam, patient, timepoint and knee."""
        return self.lake.keys_at(self.rows).reset_index(drop=True)

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(np.unique(self.lake.patients[self.rows]).size)

    def where(self, query: str) -> Cohort:
        """Keep the exams for which `query` is true.

        Each part between top-level ``and``s is a row of the flow. Exams with a missing value are
        excluded and counted separately: ``3 excluded: kl unknown``.

        Raises
        ------
        QueryError
            If the query cannot be parsed, names an unknown column, or compares strings with
            numbers.
        """
        tree = language.parse(query)
        parts = language.clauses(tree)
        columns = self._columns(language.names(tree))
        cohort = self
        for part in parts:
            cohort = cohort._keep_where(part, columns)
        return cohort

    def _keep_where(self, part: ast.expr, columns: dict[str, pd.Series]) -> Cohort:
        mine = {name: column.loc[pd.Index(self.rows)] for name, column in columns.items()}
        answer = language.evaluate(part, mine)
        keep = answer.fillna(False).to_numpy(dtype=bool)
        missing = answer.isna().to_numpy(dtype=bool)
        text = ast.unparse(part)
        reasons = {f"{text} is false": int((~keep & ~missing).sum())}
        for name in language.names(part):
            unknown = missing & mine[name].isna().to_numpy(dtype=bool)
            reasons[f"{name} unknown"] = int(unknown.sum())
        return self.keep(keep, text, reasons)

    def exclude(self, query: str, *, reason: str) -> Cohort:
        """Exclude the exams for which `query` is true; `reason` appears in the flow.

        Exams with a missing value are kept.
        """
        tree = language.parse(query)
        mine = self._columns(language.names(tree))
        out = language.evaluate(tree, mine).fillna(False).to_numpy(dtype=bool)
        return self.keep(~out, f"exclude {ast.unparse(tree)}", reason)

    def of_exams(self, exams: Collection[str], condition: str) -> Cohort:
        """Keep the exams with the given keys; `condition` describes them in the flow.

        Parameters
        ----------
        exams : collection of str
            Exam keys. The flow names those that are not in the cohort.
        condition : str
            Description for the flow, such as "in the test set".
        """
        keys = self.lake.keys_at(self.rows)["exam"]
        absent = [*dict.fromkeys(exams).keys() - {*keys}]
        note = f"{len(absent):,} not in the cohort: {name_few(sorted(absent))}" if absent else ""
        keep = keys.isin(list(exams)).to_numpy(dtype=bool)
        return self.keep(keep, condition, "not listed", note=note)

    def require(self, *paths: str) -> Cohort:
        """Keep the exams that have a product, such as ``"msme/image"`` or ``"msme/t2"``.

        A product exists if its status is done or flagged. A variant is named ``"msme/t2__epg"``.

        Raises
        ------
        NotFoundError
            If there is no such variable. The message lists the existing variables.
        """
        cohort = self
        for path in paths:
            plain, _, variant = path.partition("__")
            step = with_variant(self._declared(plain, path).step, variant)
            status = read_status(self.lake.root, step, len(self.lake))
            state = status.state[cohort.rows]
            keep = status.usable[cohort.rows]
            reasons = {
                f"{path} {name}": int(((state == value) & ~keep).sum())
                for name, value in STATE.items()
            }
            cohort = cohort.keep(keep, f"has {path}", reasons)
        return cohort

    def _declared(self, plain: str, path: str) -> Variable:
        """Return the declaration of a variable from this package or a step, else from the lake."""
        load_steps()
        if plain in REGISTRY:
            return REGISTRY[plain]
        stored = self.lake.variables()
        if plain in stored:
            return stored[plain]
        known = sorted({*stored, *(variable.path for variable in REGISTRY)})
        raise NotFoundError(
            f"no variable {path!r}",
            expected=f"one of {', '.join(known)}",
            where="require",
            todo=did_you_mean(plain, known),
        )

    def keep(
        self,
        keep: NDArray[np.bool_],
        condition: str,
        why: str | Mapping[str, int],
        *,
        note: str = "",
    ) -> Cohort:
        """Keep the exams where a mask is true; `condition` and `why` become a row of the flow.

        Parameters
        ----------
        keep : array (exam,) of bool
            Whether to keep each exam, in the order of the cohort's rows.
        condition : str
            Description of the exams that are kept.
        why : str, or mapping of str to int
            The reason to exclude the other exams, or the number of excluded exams by reason.
        note : str
            An addition to this row of the flow.
        """
        rows = self.rows[keep]
        patients = np.unique(self.lake.patients[rows]).size
        dropped = int((~keep).sum())
        reasons = {why: dropped} if isinstance(why, str) else why
        parts = [f"{n:,} excluded: {reason}" for reason, n in reasons.items() if n]
        text = "; ".join([*parts, note] if note else parts)
        row = FlowRow(condition, len(rows), patients, dropped, text)
        added = {n: replace(c, values=c.values[keep]) for n, c in self.added.items()}
        return replace(self, positions=rows, rows_of_flow=(*self.rows_of_flow, row), added=added)

    def with_outcome(self, name: str, rule: OutcomeRule) -> Cohort:
        """Add an outcome as a column, 1 (case) or 0 (control); exclude exams without an outcome.

        The flow gives the number of excluded exams by reason, and the number of cases, controls and
        their patients.

        Parameters
        ----------
        name : str
            Name of the new column, as in ``cohort.where("incident_oa == 1")``.
        rule : OutcomeRule
            Definition of the outcome, such as ``ql.reaches("kl", 2, within=48)``.

        Raises
        ------
        InputError
            If the name is an existing column or not valid in a query; if `rule` is not a rule; if
            the lake has no visits; or if the column of the rule cannot have the value.
        QueryError
            If the visits do not have the column of the rule.
        """
        self._refuse_name(name, "with_outcome")
        if not isinstance(rule, OutcomeRule):
            raise InputError(
                f"the rule is a {type(rule).__name__}",
                where="with_outcome",
                expected='a rule such as ql.reaches("kl", 2, within=48)',
            )
        outcome = rule.evaluate(self.exams, self.lake.root)
        keep = ~np.isnan(outcome.value)
        kept = self.keep(keep, f"{name}: {rule}: {outcome.summary}", outcome.excluded)
        return kept._with(
            name, AddedColumn(str(rule), outcome.value[keep].astype(np.int64), (0, 1))
        )

    def match(
        self,
        outcome: str,
        on: Sequence[str] = ("age", "bmi", "sex"),
        *,
        ratio: int = 2,
        seed: int = 0,
        caliper: Mapping[str, float] | None = None,
        prefer_cases: bool = False,
        name: str = "matched_set",
    ) -> Cohort:
        """Keep cases and their matched controls; see `qmri_lake.lake.matching.match`."""
        self._refuse_name(name, "match")
        names = [on] if isinstance(on, str) else list(dict.fromkeys(on))
        matched = match(
            self.table([*dict.fromkeys((*KEYS, outcome, *names))]),
            outcome,
            names,
            ratio=ratio,
            seed=seed,
            caliper=caliper,
            prefer_cases=prefer_cases,
        )
        cohort = self
        for row in matched.conditions:
            cohort = cohort.keep(*row)
        column = AddedColumn(matched.description, matched.sets, (1, max(matched.size, 1)))
        return cohort._with(name, column)

    def _with(self, name: str, column: AddedColumn) -> Cohort:
        return replace(self, added={**self.added, name: column})

    def _refuse_name(self, name: str, where: str) -> None:
        """Raise an error if the name of a new column exists already or is not valid in a query."""
        word = name.isidentifier() and not keyword.iskeyword(name) and "__" not in name
        if not word or name == "missing":
            raise InputError(
                f"column name {name!r}",
                expected="letters, digits and single underscores, not a word of the query language",
                where=where,
            )
        if name in self._column_names():
            raise InputError(f"column {name!r} exists", expected="a new name", where=where)

    def _column_names(self) -> list[str]:
        return list(dict.fromkeys((*self.lake.column_names(), *self.added)))

    def _columns(self, names: Sequence[str]) -> dict[str, pd.Series]:
        """Read stored or added columns, indexed by the rows of the exams."""
        if self.added:  # otherwise lake.columns checks the names
            known = dict.fromkeys(self._column_names())
            for name in names:
                if name not in known:
                    raise unknown_column(name, known)
        stored = self.lake.columns([name for name in names if name not in self.added])
        return {
            name: pd.Series(self.added[name].values, self.rows, dtype="Int64")
            if name in self.added
            else stored[name].iloc[self.rows]
            for name in names
        }

    def load(self, group: str | Sequence[str]) -> xr.Dataset:
        """Open the arrays of one group, or of several joined groups; see `Lake.load`."""
        if isinstance(group, str):
            return load_group(self.lake, group, self.rows, all_visits=self.is_everything)
        return load_groups(self.lake, list(group), self.rows)

    def flow(self) -> pd.DataFrame:
        """Return the number of remaining exams and patients, and the exclusions, per condition."""
        return pd.DataFrame(
            [(r.condition, r.exams, r.patients, r.dropped, r.why) for r in self.rows_of_flow],
            columns=["condition", "exams", "patients", "dropped", "why"],
        )

    def table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a table of keys, clinical columns and added columns, with one row per exam."""
        names = self._column_names() if columns is None else columns
        mine = self._columns([names] if isinstance(names, str) else names)
        return pd.DataFrame(mine).reset_index(drop=True)

    def __repr__(self) -> str:
        head = f"<Cohort: {counted(len(self), 'exam')} of {counted(self.patients, 'patient')}>"
        lines = [
            f"  {r.exams:>8,}  {r.condition}" + (f"  ({r.why})" if r.why else "")
            for r in self.rows_of_flow
        ]
        return "\n".join([head, *lines])


def check_same_lake(cohort: Cohort | Ids, lake: Snapshot) -> Cohort:
    """Return the cohort, or the listed exams; raise an error if the lake does not have them."""
    if not isinstance(cohort, Cohort):
        return Cohort.everything(lake).of_ids(cohort, strict=True)
    if cohort.lake.location != lake.location:
        raise RunError(
            f"a cohort of {cohort.lake.url}", expected="a cohort of this lake", where=lake.url
        )
    if cohort.removals != lake.removals:
        raise _outdated(lake)
    if beyond := int((cohort.rows >= len(lake)).sum()):
        raise RunError(
            f"the cohort has {counted(beyond, 'exam')} that this lake does not have",
            expected=f"only exams of this lake, which has {len(lake):,}",
            where=f"{lake.url} at {lake.ref or lake.snapshot}",
            todo="Select the cohort from this lake, or refresh the lake.",
        )
    return cohort


def _outdated(lake: Snapshot) -> RunError:
    return RunError(
        "a patient was removed from the lake after the cohort was selected",
        expected="a cohort of the present lake",
        where=lake.url,
        todo="Select the cohort again.",
    )
