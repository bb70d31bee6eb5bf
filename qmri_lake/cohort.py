"""Cohorts: exams chosen by conditions, with an account of who was left out and why."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake import query as language
from qmri_lake.errors import InputError, NotFoundError, QueryError, RunError, did_you_mean
from qmri_lake.outcomes import OutcomeRule
from qmri_lake.status import STATE, read_status
from qmri_lake.steps import load_own_steps
from qmri_lake.summary import counted
from qmri_lake.variables import REGISTRY, Variable, with_variant

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["AddedColumn", "Cohort", "refuse_other_lake"]


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One condition: how many exams it left, and why the rest went."""

    condition: str
    exams: int
    patients: int
    dropped: int
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class AddedColumn:
    """A column that a cohort has beside those of its lake: a whole number for each of its exams."""

    description: str
    """One line of prose."""
    values: NDArray[np.int64]
    """(exam,), in the order of the cohort's rows; none is missing."""
    valid_range: tuple[int, int]
    """Inclusive; (0, 1) of an outcome."""

    def __post_init__(self) -> None:
        self.values.flags.writeable = False


@dataclass(frozen=True, eq=False)
class Cohort:
    """Exams of a lake, chosen by conditions; immutable, each method returns a new one.

    Made by ``lake.cohort(query)``. ``rows`` are positions on the exam axis. ``added`` are columns
    of its own, by name: outcomes and matched sets. Queries and tables know them as any other.
    """

    lake: Lake
    rows: np.ndarray[Any, np.dtype[np.intp]]
    rows_of_flow: tuple[FlowRow, ...]
    added: Mapping[str, AddedColumn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows.flags.writeable = False

    @classmethod
    def everything(cls, lake: Lake) -> Cohort:
        """All exams of a lake."""
        rows = np.arange(len(lake))
        patients = int(np.unique(lake.patients).size)
        return cls(lake, rows, (FlowRow("all exams", len(rows), patients, 0, ""),))

    @classmethod
    def of_keys(cls, lake: Lake, wanted: Mapping[str, Any]) -> Cohort:
        """Exams by patient, timepoint, knee or exam; all of them where none is given."""
        everything = cls.everything(lake)
        if not wanted:
            return everything
        keep = np.ones(len(lake), dtype=bool)
        if "patient" in wanted:  # first: of few exams only their own keys are read
            keep &= lake.patients == wanted["patient"]
        rows = np.flatnonzero(keep)
        keys = lake.keys_at(rows)
        for name, value in wanted.items():
            keep[rows] &= (keys[name] == value).to_numpy()
        if not keep.any():
            asked = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            raise NotFoundError(
                f"no exam with {asked}", expected=f"one of the lake's {len(lake):,} exams",
                where=lake.url, todo="lake.exams lists them.",
            )  # fmt: skip
        text = ", ".join(f"{name} == {value!r}" for name, value in wanted.items())
        return everything._keep(keep, text, f"{int((~keep).sum()):,} not so")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def exams(self) -> pd.DataFrame:
        """Keys of the exams: exam, patient, timepoint, knee."""
        return self.lake.keys_at(self.rows).reset_index(drop=True)

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(np.unique(self.lake.patients[self.rows]).size)

    def where(self, query: str) -> Cohort:
        """Keep the exams for which `query` is true.

        Each part between top-level ``and``s is a row of the flow. An exam whose value is missing
        is neither kept nor counted as failing the condition: the flow says how many they were.

        Raises
        ------
        QueryError
            The query can't be parsed, names no column, or compares words with numbers.
        """
        tree = language.parse(query)
        parts = language.clauses(tree)
        columns = self._columns(language.names(tree))
        cohort = self
        for part in parts:
            cohort = cohort._keep_where(part, columns)
        return cohort

    def _keep_where(self, part: ast.expr, columns: dict[str, pd.Series[Any]]) -> Cohort:
        mine = {name: column.loc[pd.Index(self.rows)] for name, column in columns.items()}
        answer = language.evaluate(part, mine)
        keep = answer.fillna(False).to_numpy(dtype=bool)
        missing = answer.isna().to_numpy(dtype=bool)
        text = ast.unparse(part)
        reasons = []
        if false := int((~keep & ~missing).sum()):
            reasons.append(f"{false:,} not so")
        reasons += [
            f"{n:,} without {name}"
            for name in language.names(part)
            if (n := int((missing & mine[name].isna().to_numpy(dtype=bool)).sum()))
        ]
        return self._keep(keep, text, ", ".join(reasons))

    def exclude(self, query: str, *, reason: str) -> Cohort:
        """Leave out the exams for which `query` is true; `reason` appears in the flow.

        Exams whose value is missing stay, since nothing is known against them.
        """
        tree = language.parse(query)
        mine = self._columns(language.names(tree))
        out = language.evaluate(tree, mine).fillna(False).to_numpy(dtype=bool)
        return self._keep(~out, f"exclude {ast.unparse(tree)}", f"{int(out.sum()):,} {reason}")

    def of_exams(self, exams: Collection[str], condition: str) -> Cohort:
        """Keep the exams whose keys are listed; `condition` says in the flow which they are.

        Parameters
        ----------
        exams : collection of str
            Exam keys; those that the cohort lacks are passed over.
        condition : str
            Such as "in the test set".
        """
        keys = self.lake.keys_at(self.rows)["exam"]
        return self._keep(keys.isin(list(exams)).to_numpy(dtype=bool), condition, "others")

    def require(self, *paths: str) -> Cohort:
        """Keep the exams that have a product, such as ``"msme/image"`` or ``"msme/t2"``.

        Read from the status arrays: done or flagged. A variant is named ``"msme/t2__epg"``.

        Raises
        ------
        NotFoundError
            No such variable, with those that there are.
        """
        cohort = self
        for path in paths:
            plain, _, variant = path.partition("__")
            step = with_variant(self._declared(plain, path).step, variant)
            status = read_status(self.lake.root, step, len(self.lake))
            state = status.state[cohort.rows]
            keep = status.usable[cohort.rows]
            reasons = [
                f"{n:,} {name}"
                for name, value in STATE.items()
                if (n := int(((state == value) & ~keep).sum()))
            ]
            cohort = cohort._keep(keep, f"has {path}", ", ".join(reasons))
        return cohort

    def _declared(self, plain: str, path: str) -> Variable:
        """Return a variable's declaration: of this package or a step, else as the lake has it."""
        load_own_steps()
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

    def _keep(self, keep: np.ndarray[Any, np.dtype[np.bool_]], condition: str, why: str) -> Cohort:
        rows = self.rows[keep]
        patients = np.unique(self.lake.patients[rows]).size
        dropped = int((~keep).sum())
        row = FlowRow(condition, len(rows), patients, dropped, why if dropped else "")
        added = {n: replace(c, values=c.values[keep]) for n, c in self.added.items()}
        return replace(self, rows=rows, rows_of_flow=(*self.rows_of_flow, row), added=added)

    def with_outcome(self, name: str, rule: OutcomeRule) -> Cohort:
        """Add an outcome as a column of 1 (case) and 0 (control); exams without one leave.

        The flow says how many left under which reason, and how many patients cases and controls are
        of.

        Parameters
        ----------
        name : str
            Of the column: ``cohort.where("incident_oa == 1")``, ``cohort.table(["incident_oa"])``.
        rule : OutcomeRule
            Such as ``ql.reaches("kl", 2, within=48)``.

        Raises
        ------
        InputError
            A name that is a column already or can't be asked for in a query; no rule; a lake
            without visits; a value that the rule's column can't have.
        QueryError
            Visits have no such column as the rule asks for.
        """
        self._refuse_name(name, "with_outcome")
        if not isinstance(rule, OutcomeRule):
            raise InputError(f"a rule that is a {type(rule).__name__}", where="with_outcome",
                             expected='one such as ql.reaches("kl", 2, within=48)')  # fmt: skip
        judged = rule.judge(self)
        keep = ~np.isnan(judged.value)
        kept = self._keep(keep, f"{name}: {rule}: {judged.told}", judged.why)
        return kept._with(name, AddedColumn(str(rule), judged.value[keep].astype(np.int64), (0, 1)))

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
        """Keep cases and their matched controls; see `qmri_lake.matching.match`."""
        from qmri_lake.matching import match

        return match(self, outcome, on, ratio=ratio, seed=seed, caliper=caliper,
                     prefer_cases=prefer_cases, name=name)  # fmt: skip

    def _with(self, name: str, column: AddedColumn) -> Cohort:
        return replace(self, added={**self.added, name: column})

    def _refuse_name(self, name: str, where: str) -> None:
        """Refuse the name of a new column that is one already, or that a query can't ask for."""
        word = name.isidentifier() and not keyword.iskeyword(name) and "__" not in name
        if not word or name == "missing":
            raise InputError(
                f"the name {name!r}", expected="letters, digits and single underscores, "
                "no word of the query language", where=where,
            )  # fmt: skip
        if name in self._column_names():
            raise InputError(f"a column {name!r} that is there already", expected="a new name",
                             where=where)  # fmt: skip

    def _column_names(self) -> list[str]:
        return list(dict.fromkeys((*self.lake.column_names(), *self.added)))

    def _columns(self, names: Sequence[str]) -> dict[str, pd.Series[Any]]:
        """Read columns of the exams, of the lake or added ones, by the exams' rows."""
        if self.added:  # else the lake says itself which columns there are
            known = dict.fromkeys(self._column_names())
            for name in names:
                if name not in known:
                    raise language.unknown_column(name, known)
        stored = self.lake.columns([name for name in names if name not in self.added])
        return {
            name: pd.Series(self.added[name].values, self.rows, dtype="Int64")
            if name in self.added
            else stored[name].iloc[self.rows]
            for name in names
        }

    def flow(self) -> pd.DataFrame:
        """How many exams and patients were left after each condition, and why the rest went."""
        return pd.DataFrame(
            [(r.condition, r.exams, r.patients, r.dropped, r.why) for r in self.rows_of_flow],
            columns=["condition", "exams", "patients", "dropped", "why"],
        )

    def table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Keys, clinical columns and added ones of the exams, one row each."""
        names = self._column_names() if columns is None else columns
        mine = self._columns([names] if isinstance(names, str) else names)
        return pd.DataFrame(mine).reset_index(drop=True)

    def __repr__(self) -> str:
        head = f"<Cohort: {counted(len(self), 'exam')} of {counted(self.patients, 'patient')}>"
        lines = [f"  {r.exams:>8,}  {r.condition}" + (f"  ({r.why})" if r.why else "")
                 for r in self.rows_of_flow]  # fmt: skip
        return "\n".join([head, *lines])


def refuse_other_lake(cohort: object, lake: Lake) -> Cohort:
    """Return a cohort of this lake, of exams that it has at its snapshot; refuse any other."""
    if not isinstance(cohort, Cohort):
        raise QueryError(
            f"a cohort that is a {type(cohort).__name__}",
            expected="lake.cohort(...) or a query", where=lake.url,
        )  # fmt: skip
    if cohort.lake.location != lake.location:
        raise RunError(f"a cohort of {cohort.lake.url}", expected="one of this lake",
                       where=lake.url)  # fmt: skip
    if beyond := int((cohort.rows >= len(lake)).sum()):
        raise RunError(
            f"a cohort with {beyond:,} exams that this lake has not",
            expected=f"some of its {len(lake):,} exams",
            where=f"{lake.url} at {lake.ref or lake.snapshot}",
            todo="Choose the cohort from this lake, or refresh it.",
        )  # fmt: skip
    return cohort
