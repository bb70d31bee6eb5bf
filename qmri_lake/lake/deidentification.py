"""Rules for a derived lake without identifiers: new numbers, shifted dates, no free text.

Only content that is known to be harmless is copied: attributes and names that a variable declares,
values of variables with a harmless privacy kind, numbers, and declared words of parameters. All
other content is omitted, so that a new variable or attribute of an author cannot leak.

Options are named as in DICOM PS3.15, annex E. The derived lake is not a DICOM data set, but the
same questions arise when it is shared.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.text import counted
from qmri_lake.core.version import __version__
from qmri_lake.errors import InputError, NotFoundError, QueryError, Reason
from qmri_lake.execution.step import find_step
from qmri_lake.fusion import STRATEGIES
from qmri_lake.lake import query as language
from qmri_lake.lake.cohort import AddedColumn, Cohort
from qmri_lake.lake.copy_rules import CopyRules
from qmri_lake.lake.date_shift import shift_dates
from qmri_lake.lake.pseudonyms import Pseudonyms
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.exam_index import KEYS, exam_key
from qmri_lake.schema.groups import PROFILES
from qmri_lake.schema.privacy import OWN_TABLE, Privacy, Treatment
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import Node
from qmri_lake.store.snapshot import Snapshot
from qmri_lake.surface.spherical_grid import BONES

__all__ = ["NO_CODE", "OPTIONS", "Deidentification", "clean_parameters", "message_code"]

OPTIONS: Mapping[str, str] = {
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
}
"""Options of DICOM PS3.15 that correspond to the treatment, by their code in CID 7050."""

NOT_DONE = (
    "text that is burned into pixels is not searched for",
    "rare combinations of age, sex and BMI are not changed",
    "images and maps are not changed: whoever has the source can find an exam by its pixels",
)
"""What a pseudonymised lake still contains; stored with it."""

NO_CODE = "no_reason_code"
"""Text that replaces a status message without a reason code."""

OUTCOME = "Outcome or matched set of the cohort"
"""Description of a column that a cohort added. It replaces the original description, which may
contain names of columns of a user's own table."""

_KEY = re.compile(r"(\d+)-(\d+)m-(left|right)")
_DIGEST = re.compile(r"[0-9a-f]{64}|[<>|=]?[a-z]\d{0,2}")
"""A SHA-256, or a NumPy dtype, which the record of an array contains."""
_IDENTITY = re.compile(r"(.+)@([0-9a-f]{8,64}(?:-[0-9a-f]{8,64})?)( in (?:float|bfloat)\d+)?")
"""The identity of a model: its name, digests and precision."""
_NETWORK = re.compile(r"(?:bone|cartilage)_[23]d-\d{1,2}")
_CLASSIFIERS = {f"{strategy}/{bone}" for strategy in STRATEGIES for bone in BONES}
"""Names of the networks and classifiers that this package trains."""
_UNIT = re.compile(r"[A-Za-z0-9%/.*^ -]{0,20}")
_VERSION = re.compile(r"[\w.+-]{1,20}")
_CODE = re.compile(r"(?:\w+ [\w.+-]{1,20}, )?qmri_lake [\w.+-]{1,20}")


@dataclass(frozen=True)
class Deidentification(CopyRules):
    """Rules of a derivation that omits identifiers."""

    pseudonyms: Pseudonyms
    own_steps: Mapping[str, str]
    """New names of the steps of a user's own tables, by the original name, which contains a file
    name."""

    @classmethod
    def of(cls, lake: Snapshot, pseudonyms: Pseudonyms) -> Deidentification:
        """Return the rules for a source."""
        own = sorted({v.step for v in lake.variables().values() if v.step.startswith(OWN_TABLE)})
        return cls(pseudonyms, {step: f"{OWN_TABLE}{n}" for n, step in enumerate(own, 1)})

    @property
    def record(self) -> JsonObject:  # type: ignore[override]
        """Record of the pseudonymisation, with the corresponding options of DICOM PS3.15."""
        return {
            "method": f"qmri_lake {__version__}: derive with new patient numbers",
            "options": [
                {"scheme": "DCM", "code": code, "meaning": text} for code, text in OPTIONS.items()
            ],
            "values": {kind.value: kind.treatment.value for kind in Privacy},
            "not_done": list(NOT_DONE),
        }

    def order(self, cohort: Cohort) -> Cohort:
        """Sort by the new numbers, which are random, to hide the order of the original numbers."""
        new = self.pseudonyms.keys(cohort.exams)
        at = new.sort_values(list(KEYS)).index.to_numpy()
        added = {name: self._added(column, at) for name, column in cohort.added.items()}
        return replace(cohort, positions=cohort.rows[at].copy(), added=added)

    def visits(self, keys: pd.DataFrame, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Sort by the new numbers."""
        new = self.pseudonyms.keys(keys.iloc[rows])
        return np.asarray(rows[new.sort_values(list(KEYS)).index.to_numpy()])

    def keys(self, exams: pd.DataFrame) -> pd.DataFrame:
        """Return the keys with new numbers."""
        return self.pseudonyms.keys(exams)

    @staticmethod
    def _added(column: AddedColumn, at: Values) -> AddedColumn:
        values = column.values[at]
        if column.valid_range != (0, 1):
            values = _numbered(values)
        return replace(column, description=OUTCOME, values=values)

    def arrays(self, copied: Mapping[str, Variable], names: Sequence[str]) -> dict[str, Variable]:
        """Omit UIDs, texts, dates that cannot be shifted, and own columns not listed in `names`.

        Raises
        ------
        InputError
            If a product is a variable that is always removed.
        """
        for name in names:
            if name in copied and self._treatment(copied[name]) == Treatment.REMOVE:
                raise InputError(
                    f"{name} is a {REGISTRY.privacy_of(copied[name])}",
                    expected="products without identifiers",
                    where="derive",
                    todo="Omit it: a pseudonymised lake does not contain it.",
                )
        kept = (Treatment.KEEP, Treatment.REPLACE, Treatment.SHIFT)
        return {
            path: variable
            for path, variable in copied.items()
            if (how := self._treatment(variable)) in kept
            or (how == Treatment.NAMED and path in names)
        }

    @staticmethod
    def _treatment(variable: Variable) -> Treatment:
        how = REGISTRY.privacy_of(variable).treatment
        if variable.bulk and how != Treatment.KEEP:  # volumes and maps are kept or omitted
            return Treatment.REMOVE
        return how

    def step(self, name: str) -> str:
        """Return the name of a step; for a user's own table, a new name without a file name."""
        return self.own_steps.get(name, f"{OWN_TABLE}0" if name.startswith(OWN_TABLE) else name)

    def group_attributes(self, group: str, attributes: JsonMapping) -> JsonObject:
        """Return the sizes and the names of coordinates."""
        kept: JsonObject = {}
        if "sizes" in attributes:
            kept["sizes"] = {
                str(dim): int(n)
                for dim, n in attributes["sizes"].items()
                if str(dim).isidentifier()
            }
        known = {c.name for v in REGISTRY.group(group) for c in v.coordinates}
        names = [n for n in str(attributes.get("coordinates", "")).split() if n in known]
        return kept | ({"coordinates": " ".join(names)} if names else {})

    def attributes(self, variable: Variable, name: str, attributes: JsonMapping) -> JsonObject:
        """Return the attributes that are declared by code, not those that are stored."""
        own = REGISTRY.privacy_of(variable) == Privacy.OWN
        if variable.path in REGISTRY and not own:
            declared = REGISTRY[variable.path]
        else:
            # The stored range of a column of a user's own table covers all patients of the source.
            declared = replace(
                variable,
                description=OUTCOME if variable.step == "derive" else name,
                unit=variable.unit if _UNIT.fullmatch(variable.unit) else "",
                fill_meaning="no value",
                valid_range=None if own else variable.valid_range,
            )
        return replace(declared, step=self.step(variable.step)).attributes()

    def has_coordinate(self, group: str, array: Node, name: str) -> bool:
        """Return whether a step declares these labels; undeclared ones may be free text."""
        return any(
            c.name == name and np.array_equal(np.asarray(c.values), array[...].astype(object))
            for v in REGISTRY.group(group)
            for c in v.coordinates
        )

    def coordinate_attributes(self, group: str, name: str, attributes: JsonMapping) -> JsonObject:
        """Return the declared attributes."""
        found = (c for v in REGISTRY.group(group) for c in v.coordinates if c.name == name)
        return dict(next(found).attributes)

    def values(self, variable: Variable, values: Values, patients: Values) -> Values:
        """Replace numbers and keys, and shift dates."""
        kind = REGISTRY.privacy_of(variable)
        if kind == Privacy.PATIENT and values.dtype.kind in "OTU":
            return self._new_texts(values, patients)
        if kind == Privacy.PATIENT:
            numbers = self.pseudonyms.numbers(values.reshape(-1).tolist())
            return numbers.reshape(values.shape).astype(values.dtype)
        if kind == Privacy.EXAM:
            new = [self._new_key(str(text)) for text in values.reshape(-1)]
            return np.array(new, dtype=object).reshape(values.shape)
        if kind == Privacy.DATE:
            return shift_dates(variable, values, self.pseudonyms.days(patients.tolist()))
        if variable.step == "derive" and (variable.valid_range or (0, 1))[1] > 1:
            return _numbered(values)
        return values

    def _new_texts(self, values: Values, patients: Values) -> Values:
        """Replace identifiers of patients that are texts by the new number, also as text."""
        new = self.pseudonyms.numbers(patients.tolist())
        owner = np.broadcast_to(new.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        texts = [str(n) if text else "" for n, text in zip(owner.flat, values.flat, strict=True)]
        return np.array(texts, dtype=object).reshape(values.shape)

    def _new_key(self, key: str) -> str:
        found = _KEY.fullmatch(key)
        number = int(self.pseudonyms.numbers([int(found[1])])[0]) if found else -1
        return exam_key(number, int(found[2]), found[3]) if found and number > 0 else ""

    def messages(self, messages: Values) -> Values:
        """Return the reason code of each message."""
        return np.array([message_code(str(text)) for text in messages], dtype=object)

    def run(self, record: JsonMapping) -> JsonObject:
        """Return the entries needed to detect stale results, without undeclared texts."""
        step, version, code = (str(record.get(name, "")) for name in ("step", "version", "code"))
        return {
            "step": self.step(step),
            "parameters": clean_parameters(step, record.get("parameters", {})),
            "version": version if _VERSION.fullmatch(version) else "",
            "code": code if _CODE.fullmatch(code) else "",
        }

    def lineage(self, record: JsonObject) -> JsonObject:
        """Return the snapshot, the products and the counts of the flow."""
        flow = [[_condition(str(row[0]), n), *row[1:4], ""] for n, row in enumerate(record["flow"])]
        return {**record, "lake": "", "flow": flow, "before": None}

    def profile(self, name: str) -> str:
        """Return the name of a known profile."""
        return name if name in PROFILES else ""

    def begin_message(self, cohort: Cohort, lake: Snapshot, name: str) -> str:
        """Return a message without the name of the source."""
        return f"Derive {counted(len(cohort), 'exam')} with new patient numbers"


def message_code(message: str) -> str:
    """Return the reason code of a status message, or the class of a Python exception.

    >>> message_code("missing_slice: folder/7: 3 slices missing (expected 160)")
    'missing_slice'
    >>> message_code("no cartilage in the folder of Jane Doe")
    'no_reason_code'
    """
    if not message:
        return ""
    first = message.partition(":")[0]
    if first in [*Reason]:
        return first
    kind = getattr(builtins, first, None)
    return first if isinstance(kind, type) and issubclass(kind, Exception) else NO_CODE


def _numbered(values: Values) -> Values:
    """Renumber matched sets by their first exam; old numbers show the original order."""
    codes = pd.factorize(values)[0] + 1
    return np.where(values >= 0, codes, values).astype(values.dtype)


def _condition(text: str, number: int) -> str:
    """Return a condition of a flow if it consists of declared names, words and numbers."""
    harmless = f"condition {number}"
    if text == "all exams" or (text.startswith("has ") and text[4:].partition("__")[0] in REGISTRY):
        return text
    columns = [v for v in REGISTRY.group("clinical") if v.step == "ingest_clinical"]
    names = {"timepoint", "knee", *(v.name for v in columns)}
    words = {"left", "right", *(word for v in columns for word in v.flags or ())}
    try:
        tree = language.parse(text.removeprefix("exclude "))
    except QueryError:
        return harmless
    constants = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    known = all(c in words for c in constants if isinstance(c, str))
    return text if known and set(language.names(tree)) <= names else harmless


def clean_parameters(step: str, parameters: object) -> JsonObject:
    """Return parameters of a step without undeclared texts; none for the package's own runs."""
    try:
        found = find_step(step.partition("__")[0])
    except NotFoundError:
        return {}
    words = {*_declared_words(found.function), *found.defaults}
    words |= {value for value in found.defaults.values() if isinstance(value, str)}
    return {
        name: _clean(value, words)
        for name, value in (parameters.items() if isinstance(parameters, dict) else ())
        if name in found.defaults
    }


def _declared_words(function: Any) -> Iterator[str]:
    """Yield the words that the annotations of a function allow, such as ``Literal["all"]``."""
    try:
        hints = list(get_type_hints(function).values())
    except (NameError, TypeError, AttributeError):  # imported for type checking only
        return
    while hints:
        hint = hints.pop()
        arguments = get_args(getattr(hint, "__value__", hint))
        if get_origin(hint) is Literal:
            yield from (word for word in arguments if isinstance(word, str))
        else:
            hints += arguments


def _clean(value: object, words: set[str]) -> object:
    """Return a parameter in which `_REMOVED` replaces texts that are not declared."""
    if isinstance(value, dict):
        marks = {"float", "array", "shape", "sha256"}  # as `canonical` stores them
        plain = all(key in words or key in marks for key in value)
        return {k: _clean(v, words) for k, v in value.items()} if plain else _REMOVED
    if isinstance(value, list):
        return [_clean(item, words) for item in value]
    if not isinstance(value, str) or value in words or value in ("inf", "-inf", "nan"):
        return value
    if model := _IDENTITY.fullmatch(value):
        name = model[1] if _NETWORK.fullmatch(model[1]) or model[1] in _CLASSIFIERS else "model"
        return f"{name}@{model[2]}{model[3] or ''}"
    return value if _DIGEST.fullmatch(value) else _REMOVED


_REMOVED = "removed"
"""Text that replaces a text that is not declared."""
