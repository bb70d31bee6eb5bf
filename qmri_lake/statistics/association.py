"""Whether a measurement explains an outcome beyond others: nested logistic models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.statistics.bootstrap import labels_and_scores, patient_codes

__all__ = ["NestedModels", "nested_logistic"]

_WHERE = "nested_logistic"
LIKELIHOOD_RATIO = "likelihood ratio"
WALD = "Wald, clustered by patient"


@dataclass(frozen=True)
class NestedModels:
    """Two logistic models, M0 inside M1, and the test of what M1 adds."""

    test: str
    """"likelihood ratio", or "Wald, clustered by patient"."""
    statistic: float
    """Chi-squared."""
    df: int
    """Columns that M1 adds."""
    p: float
    m0: pd.DataFrame
    """A row a term: coefficient and se, of the log odds per standard deviation of the term;
    odds_ratio with low and high, its 95 % interval; z; p."""
    m1: pd.DataFrame
    log_likelihood: tuple[float, float]
    """Of M0 and M1."""
    cases: int
    controls: int
    patients: int | None
    """Clusters; None where exams are taken as independent."""
    left_out: int
    """Exams without a value in some column: in neither model."""

    def __str__(self) -> str:
        left = f", {self.left_out} left out" if self.left_out else ""
        of = "" if self.patients is None else f" of {self.patients} patients"
        return (
            f"{self.test}: chi2({self.df}) {self.statistic:.2f}, p {self.p:.3g}; "
            f"{self.cases} cases, {self.controls} controls{of}{left}"
        )


def nested_logistic(
    label: ArrayLike,
    base: pd.DataFrame | pd.Series,
    added: pd.DataFrame | pd.Series,
    *,
    covariates: pd.DataFrame | pd.Series | None = None,
    patient: ArrayLike | None = None,
) -> NestedModels:
    """Test whether columns explain an outcome beyond others.

    Parameters
    ----------
    label : (exam,)
        1 or True for a case, 0 or False for a control.
    base : DataFrame or named Series (exam,)
        Columns of M0, such as the mean thickness of compartments [mm].
    added : DataFrame or named Series (exam,)
        Columns that only M1 has, such as DL-guided thickness [mm].
    covariates : DataFrame or named Series (exam,), optional
        Columns of both, such as age, sex as 0 and 1, BMI.
    patient : (exam,), optional
        Whose exam it is, where patients have several. A likelihood ratio takes exams as
        independent, so the test is then Wald's with a covariance clustered by patient, and so are
        the intervals. [assumption]

    Returns
    -------
    NestedModels
        The test is a likelihood-ratio test [paper] without `patient`. Exams with NaN in a column
        are left out of both models, and counted.

    Raises
    ------
    InputError
        Labels other than 0 and 1 or of one class; infinite values; a constant column; one that is a
        linear combination of the others; columns that separate cases from controls, of which no
        odds ratio exists; too few exams or patients; tables in another order; names twice.
    RunError
        A model doesn't converge.

    Notes
    -----
    2 (log L1 - log L0), chi-squared with as many degrees of freedom as columns are added. Columns
    are standardised first, which changes no test.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from qmri_lake.statistics import nested_logistic
    >>> rng = np.random.default_rng(0)
    >>> names = ["medial", "lateral", "guided"]
    >>> table = pd.DataFrame(rng.normal(2.0, 0.3, (200, 3)), columns=names)
    >>> label = rng.random(200) < 1 / (1 + np.exp(3 * (table["guided"] - 2.0)))
    >>> print(nested_logistic(label, table[["medial", "lateral"]], table["guided"]))
    likelihood ratio: chi2(1) 35.59, p 2.44e-09; 107 cases, 93 controls
    """
    shared = [] if covariates is None else [_table(covariates, "covariates")]
    groups = [*shared, _table(base, "base"), _table(added, "added")]
    _aligned(groups, len(np.asarray(label)))
    if isinstance(label, pd.Series) and not label.index.equals(groups[0].index):
        raise _wrong(f"labels with another index than {_names(groups[0])}",
                     "the same exams in the same order", "Join the tables first.")  # fmt: skip
    everything = pd.concat(groups, axis=1).astype(np.float64)
    case, _ = labels_and_scores(label, where=_WHERE)
    codes, _ = patient_codes(patient, len(case), _WHERE)
    values = everything.to_numpy()
    if np.isinf(values).any():
        names = everything.columns[np.isinf(values).any(axis=0)]
        raise _wrong(f"infinite values in {', '.join(names)}", "finite values, or NaN for none")
    whole = np.isfinite(values).all(axis=1)
    _enough(everything, whole, case)
    case, codes = case[whole], pd.factorize(codes[whole])[0]
    patients = None if patient is None else int(codes.max()) + 1
    terms = everything.shape[1] + 1
    if patients is not None and patients <= terms:
        raise _wrong(f"{patients} patients", f"more than the {terms} terms of M1",
                     "Add patients, or leave out columns.")  # fmt: skip
    design = _standardised(everything[whole])
    fewer = design.iloc[:, : -groups[-1].shape[1]]
    for name, part in (("M0", fewer), ("M1", design)):
        if _separates(part.to_numpy(), case):
            raise _wrong(
                f"columns of {name} that separate {int(case.sum())} cases from "
                f"{int((~case).sum())} controls ({', '.join(_suspects(part, case))})",
                "classes that overlap", "Odds ratios are infinite: leave out columns.",
            )  # fmt: skip
    fits = [_fit(part, case, codes if patients is not None else None) for part in (fewer, design)]
    df = groups[-1].shape[1]
    if patients is None:
        statistic = 2 * (float(fits[1].llf) - float(fits[0].llf))
    else:
        picked = np.eye(design.shape[1])[-df:]
        statistic = float(fits[1].wald_test(picked, use_f=False, scalar=True).statistic)
    return NestedModels(
        test=LIKELIHOOD_RATIO if patients is None else WALD,
        statistic=statistic,
        df=df,
        p=float(stats.chi2.sf(statistic, df)),
        m0=_coefficients(fits[0]),
        m1=_coefficients(fits[1]),
        log_likelihood=(float(fits[0].llf), float(fits[1].llf)),
        cases=int(case.sum()),
        controls=int((~case).sum()),
        patients=patients,
        left_out=int((~whole).sum()),
    )


def _wrong(found: str, expected: str, todo: str = "") -> InputError:
    return InputError(
        found, expected=expected, where=_WHERE, todo=todo, reason=Reason.UNREADABLE_VALUE
    )


def _table(given: pd.DataFrame | pd.Series, name: str) -> pd.DataFrame:
    if isinstance(given, pd.Series):
        given = given.to_frame(name if given.name is None else given.name)
    if not isinstance(given, pd.DataFrame) or not given.shape[1]:
        raise _wrong(f"{name} of type {type(given).__name__}", "a DataFrame or Series with columns")
    odd = [str(c) for c in given if not pd.api.types.is_numeric_dtype(given[c])]
    if odd:
        raise _wrong(f"{', '.join(odd)}, not numbers", "numbers", "Code classes as 0 and 1.")
    return given.rename(columns=str)


def _names(table: pd.DataFrame) -> str:
    return ", ".join(str(name) for name in table)


def _aligned(groups: list[pd.DataFrame], exams: int) -> None:
    names = [str(name) for group in groups for name in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _wrong(f"{', '.join(twice)} twice", "each column once")
    for group in groups:
        if len(group) != exams:
            raise _wrong(f"{len(group)} rows of {_names(group)}", f"{exams}, as labels")
        if not group.index.equals(groups[0].index):
            raise _wrong(f"{_names(group)} with another index than {_names(groups[0])}",
                         "the same exams in the same order", "Join the tables first.")  # fmt: skip


def _enough(table: pd.DataFrame, whole: NDArray[np.bool_], case: NDArray[np.bool_]) -> None:
    """Refuse what leaves no model: too few exams with every value, or of one class."""
    terms = table.shape[1] + 1
    left, cases = int(whole.sum()), int(case[whole].sum())
    if left > terms and 0 < cases < left:
        return
    lacking = table.isna().sum()
    most = ", ".join(f"{name} lacks {count}" for name, count in lacking[lacking > 0].items())
    raise _wrong(
        f"{cases} cases and {left - cases} controls with a value in every column"
        + (f" ({most} of {len(table)})" if most else ""),
        f"both, and more exams than the {terms} terms of M1",
    )


def _standardised(table: pd.DataFrame) -> pd.DataFrame:
    """Return the design, constant first; refuse columns of no own information."""
    constant = [str(name) for name in table if table[name].min() == table[name].max()]
    if constant:
        raise _wrong(f"{', '.join(constant)}: one value in all {len(table)} exams",
                     "columns that vary", "Leave it out.")  # fmt: skip
    scaled = (table - table.mean()) / table.std(ddof=0)
    for k, name in enumerate(scaled, start=1):
        if np.linalg.matrix_rank(scaled.iloc[:, :k].to_numpy()) < k:
            raise _wrong(f"{name}, a linear combination of {', '.join(scaled.columns[: k - 1])}",
                         "columns that add something", "Leave it out.")  # fmt: skip
    scaled.insert(0, "constant", 1.0)
    return scaled


def _separates(design: NDArray[np.float64], case: NDArray[np.bool_]) -> bool:
    """Say whether some direction has all cases on one side and all controls on the other.

    Exactly, by linear programming (Konis 2007); exams on the boundary itself are allowed, for then
    too the likelihood has no maximum.
    """
    signed = np.where(case, 1.0, -1.0)[:, None] * design
    found = optimize.linprog(
        -signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1)
    )
    if not found.success:
        raise RunError(f"no answer of the linear programme ({found.message})", where=_WHERE)
    return bool(signed.sum(axis=0) @ found.x > 1e-6)


def _suspects(design: pd.DataFrame, case: NDArray[np.bool_]) -> list[str]:
    """Return the columns that separate alone; all if only together."""
    columns = [str(name) for name in design if name != "constant"]
    alone = [n for n in columns if _separates(design[["constant", n]].to_numpy(), case)]
    return alone or columns


def _fit(design: pd.DataFrame, case: NDArray[np.bool_], codes: NDArray[np.intp] | None) -> Any:
    import statsmodels.api as sm

    clustered = {} if codes is None else {"cov_type": "cluster", "cov_kwds": {"groups": codes}}
    fitted = sm.Logit(case.astype(float), design).fit(
        disp=False, maxiter=100, warn_convergence=False, **clustered
    )
    if not fitted.mle_retvals["converged"]:
        raise RunError(
            f"a model of {_names(design)} that did not converge in 100 steps", where=_WHERE,
            todo="Look for outliers and for columns that nearly separate the classes.",
        )  # fmt: skip
    return fitted


def _coefficients(fitted: Any) -> pd.DataFrame:
    low, high = fitted.conf_int().to_numpy().T
    return pd.DataFrame(
        {
            "coefficient": fitted.params,
            "se": fitted.bse,
            "odds_ratio": np.exp(fitted.params),
            "low": np.exp(low),
            "high": np.exp(high),
            "z": fitted.tvalues,
            "p": fitted.pvalues,
        }
    ).rename_axis("term")
