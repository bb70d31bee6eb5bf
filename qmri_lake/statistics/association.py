"""Compare nested logistic models to test whether measurements explain an outcome beyond others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.statistics._inputs import labels_and_scores, patient_codes
from qmri_lake.statistics.interval_limits import checked_limits

__all__ = ["NestedModels", "nested_logistic"]

_WHERE = "nested_logistic"
LIKELIHOOD_RATIO = "likelihood ratio"
WALD = "Wald, clustered by patient"


@dataclass(frozen=True)
class NestedModels:
    """Two nested logistic models, M0 and M1, and the test of the terms that M1 adds."""

    test: str
    """"likelihood ratio", or "Wald, clustered by patient"."""
    statistic: float
    """Test statistic, chi-squared distributed if the added terms have no effect."""
    df: int
    """Degrees of freedom: number of columns that M1 adds."""
    p: float
    m0: pd.DataFrame
    """One row per term. Columns: coefficient and se of the log odds per standard deviation of the
    term; odds_ratio, and its 95 % interval from low to high, above 0, NaN for fewer than five
    patients; z; p."""
    m1: pd.DataFrame
    log_likelihood: tuple[float, float]
    """Log-likelihoods of M0 and M1."""
    cases: int
    controls: int
    patients: int | None
    """Number of clusters; None if exams are assumed to be independent."""
    left_out: int
    """Number of exams without a value in a column, which are in neither model."""

    def __str__(self) -> str:
        excluded = f", {self.left_out} left out" if self.left_out else ""
        clusters = "" if self.patients is None else f" of {self.patients} patients"
        return (
            f"{self.test}: chi2({self.df}) {self.statistic:.2f}, p {self.p:.3g}; "
            f"{self.cases} cases, {self.controls} controls{clusters}{excluded}"
        )


def nested_logistic(
    label: ArrayLike,
    base: pd.DataFrame | pd.Series,
    added: pd.DataFrame | pd.Series,
    *,
    covariates: pd.DataFrame | pd.Series | None = None,
    patient: ArrayLike | None = None,
) -> NestedModels:
    """Test whether columns explain an outcome beyond other columns.

    Parameters
    ----------
    label : (exam,)
        1 or True for a case, 0 or False for a control.
    base : DataFrame or named Series (exam,)
        Columns of M0, such as the mean thickness of compartments [mm].
    added : DataFrame or named Series (exam,)
        Columns that only M1 contains, such as DL-guided thickness [mm].
    covariates : DataFrame or named Series (exam,), optional
        Columns of both models, such as age, BMI, and sex as 0 and 1.
    patient : (exam,), optional
        Patient of each exam, required if patients have several exams. The likelihood-ratio test
        assumes independent exams. With `patient`, the test and the intervals are therefore Wald's,
        with a covariance clustered by patient. [assumption]

    Returns
    -------
    NestedModels
        The models and a likelihood-ratio test [paper], or a Wald test if `patient` is given. Exams
        with NaN in a column are excluded from both models and counted.

    Raises
    ------
    InputError
        If labels are not 0 or 1, or all labels are equal; if values are infinite; if a column is
        constant or a linear combination of others; if columns separate cases from controls, so that
        odds ratios are infinite; if there are too few exams or patients; if the indexes of tables
        differ; if two columns have the same name.
    RunError
        If a model does not converge.

    Notes
    -----
    The statistic of the likelihood-ratio test, 2 (log L1 - log L0), is compared with a chi-squared
    distribution with one degree of freedom per added column. Columns are standardised first, which
    does not change the test.

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
    _require_aligned(groups, len(np.asarray(label)))
    if isinstance(label, pd.Series) and not label.index.equals(groups[0].index):
        raise _input_error(
            f"labels with another index than {_names(groups[0])}",
            "the same exams in the same order",
            "Join the tables first.",
        )
    everything = pd.concat(groups, axis=1).astype(np.float64)
    case, _ = labels_and_scores(label, where=_WHERE)
    codes, _ = patient_codes(patient, len(case), _WHERE)
    values = everything.to_numpy()
    if np.isinf(values).any():
        names = everything.columns[np.isinf(values).any(axis=0)]
        raise _input_error(
            f"infinite values in {', '.join(names)}", "finite values, or NaN for none"
        )
    complete = np.isfinite(values).all(axis=1)
    _require_enough_exams(everything, complete, case)
    case, codes = case[complete], pd.factorize(codes[complete])[0]
    patients = None if patient is None else int(codes.max()) + 1
    terms = everything.shape[1] + 1
    if patients is not None and patients <= terms:
        raise _input_error(
            f"{patients} patients",
            f"more than the {terms} terms of M1",
            "Add patients, or remove columns.",
        )
    design = _standardised(everything[complete])
    base_design = design.iloc[:, : -groups[-1].shape[1]]
    for name, part in (("M0", base_design), ("M1", design)):
        if _separates(part.to_numpy(), case):
            raise _input_error(
                f"columns of {name} separate {int(case.sum())} cases from "
                f"{int((~case).sum())} controls ({', '.join(_separating_columns(part, case))})",
                "overlapping classes",
                "Odds ratios are infinite: remove columns.",
            )
    fits = [
        _fit(part, case, codes if patients is not None else None) for part in (base_design, design)
    ]
    df = groups[-1].shape[1]
    if patients is None:
        statistic = 2 * (float(fits[1].llf) - float(fits[0].llf))
    else:
        contrast = np.eye(design.shape[1])[-df:]
        statistic = float(fits[1].wald_test(contrast, use_f=False, scalar=True).statistic)
    return NestedModels(
        test=LIKELIHOOD_RATIO if patients is None else WALD,
        statistic=statistic,
        df=df,
        p=float(stats.chi2.sf(statistic, df)),
        m0=_coefficients(fits[0], patients or len(case)),
        m1=_coefficients(fits[1], patients or len(case)),
        log_likelihood=(float(fits[0].llf), float(fits[1].llf)),
        cases=int(case.sum()),
        controls=int((~case).sum()),
        patients=patients,
        left_out=int((~complete).sum()),
    )


def _input_error(found: str, expected: str, todo: str = "") -> InputError:
    return InputError(
        found, expected=expected, where=_WHERE, todo=todo, reason=Reason.UNREADABLE_VALUE
    )


def _table(given: pd.DataFrame | pd.Series, name: str) -> pd.DataFrame:
    if isinstance(given, pd.Series):
        given = given.to_frame(name if given.name is None else given.name)
    if not isinstance(given, pd.DataFrame) or not given.shape[1]:
        raise _input_error(
            f"{name} of type {type(given).__name__}", "a DataFrame or Series with columns"
        )
    odd = [str(c) for c in given if not pd.api.types.is_numeric_dtype(given[c])]
    if odd:
        raise _input_error(f"{', '.join(odd)}, not numbers", "numbers", "Code classes as 0 and 1.")
    return given.rename(columns=str)


def _names(table: pd.DataFrame) -> str:
    return ", ".join(str(name) for name in table)


def _require_aligned(groups: list[pd.DataFrame], exams: int) -> None:
    names = [str(name) for group in groups for name in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _input_error(f"{', '.join(twice)} twice", "each column once")
    for group in groups:
        if len(group) != exams:
            raise _input_error(f"{len(group)} rows of {_names(group)}", f"{exams}, as labels")
        if not group.index.equals(groups[0].index):
            raise _input_error(
                f"{_names(group)} with another index than {_names(groups[0])}",
                "the same exams in the same order",
                "Join the tables first.",
            )


def _require_enough_exams(
    table: pd.DataFrame, complete: NDArray[np.bool_], case: NDArray[np.bool_]
) -> None:
    """Raise an error if too few exams have all values, or if these exams have only one label."""
    terms = table.shape[1] + 1
    exams, cases = int(complete.sum()), int(case[complete].sum())
    if exams > terms and 0 < cases < exams:
        return
    lacking = table.isna().sum()
    most = ", ".join(f"{name} lacks {count}" for name, count in lacking[lacking > 0].items())
    raise _input_error(
        f"{cases} cases and {exams - cases} controls with a value in every column"
        + (f" ({most} of {len(table)})" if most else ""),
        f"cases and controls, and more exams than the {terms} terms of M1",
    )


def _standardised(table: pd.DataFrame) -> pd.DataFrame:
    """Return the design matrix, with the constant first; raise an error for redundant columns."""
    constant = [str(name) for name in table if table[name].min() == table[name].max()]
    if constant:
        raise _input_error(
            f"{', '.join(constant)}: one value in all {len(table)} exams",
            "columns that vary",
            "Remove constant columns.",
        )
    scaled = (table - table.mean()) / table.std(ddof=0)
    for k, name in enumerate(scaled, start=1):
        if np.linalg.matrix_rank(scaled.iloc[:, :k].to_numpy()) < k:
            raise _input_error(
                f"{name} is a linear combination of {', '.join(scaled.columns[: k - 1])}",
                "independent columns",
                f"Remove {name}.",
            )
    scaled.insert(0, "constant", 1.0)
    return scaled


def _separates(design: NDArray[np.float64], case: NDArray[np.bool_]) -> bool:
    """Return whether a hyperplane separates all cases from all controls.

    The result is exact, by linear programming (Konis 2007). Exams may also lie on the hyperplane,
    since the likelihood has no maximum in this case either.
    """
    signed = np.where(case, 1.0, -1.0)[:, None] * design
    found = optimize.linprog(
        -signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1)
    )
    if not found.success:
        raise RunError(f"the linear programme failed ({found.message})", where=_WHERE)
    return bool(signed.sum(axis=0) @ found.x > 1e-6)


def _separating_columns(design: pd.DataFrame, case: NDArray[np.bool_]) -> list[str]:
    """Return the columns that each separate the classes, or all columns if there are none."""
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
            f"the model of {_names(design)} did not converge in 100 iterations",
            where=_WHERE,
            todo="Check for outliers and for columns that nearly separate the classes.",
        )
    return fitted


def _coefficients(fitted: Any, patients: int) -> pd.DataFrame:
    with np.errstate(over="ignore"):  # a limit that is too large for a float is infinite
        ends = np.exp(fitted.conf_int().to_numpy())
    low, high = zip(
        *(checked_limits(*pair, patients=patients, scale="log") for pair in ends), strict=True
    )
    return pd.DataFrame(
        {
            "coefficient": fitted.params,
            "se": fitted.bse,
            "odds_ratio": np.exp(fitted.params),
            "low": low,
            "high": high,
            "z": fitted.tvalues,
            "p": fitted.pvalues,
        }
    ).rename_axis("term")
