"""Cohort queries: a small, closed language, parsed and never evaluated as code.

``knee == 'right' and kl >= 2``, ``timepoint in (0, 12)``, ``not sex == 'female'``,
``bmi / 2 < 14``, ``missing(kl)``. A comparison with a missing value is neither true nor false
(Kleene logic), so ``not kl >= 2`` does not select knees whose grade is unknown.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from qmri_lake.errors import QueryError

__all__ = ["clauses", "evaluate", "names", "parse"]

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LANGUAGE = "comparisons, in (...), and/or/not, + - * /, missing(name), names of columns, constants"
_LONGEST = 2000


def parse(text: str) -> ast.expr:
    """Parse a query and check that it holds nothing but the language.

    Raises
    ------
    QueryError
        With the place of the fault and what the language has.
    """
    if len(text) > _LONGEST:
        raise QueryError(f"{len(text)} characters", expected=f"at most {_LONGEST}", where="query")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        place = getattr(error, "offset", None)
        raise QueryError(
            f"{text!r}" + (f", which goes wrong at character {place}" if place else ""),
            expected="a condition such as knee == 'right' and kl >= 2",
            where="query",
        ) from None
    _check(tree, text)
    return tree


def _check(node: ast.AST, text: str) -> None:
    match node:
        case ast.BoolOp(values=parts):
            children: list[ast.AST] = list(parts)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=inner):
            children = [inner]
        case ast.Compare(left=left, comparators=others):
            children = [left, *others]
        case ast.BinOp(left=left, right=right, op=op) if type(op) in _ARITHMETIC:
            children = [left, right]
        case ast.Call(func=ast.Name(id="missing"), args=[ast.Name() as name], keywords=[]):
            children = [name]
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            children = list(items)
        case ast.Name():
            children = []
        case ast.Constant(value=value) if isinstance(value, str | int | float | bool):
            children = []
        case _:
            raise QueryError(
                f"{ast.unparse(node)!r} in {text!r}", expected=_LANGUAGE, where="query"
            )
    for child in children:
        _check(child, text)


def clauses(tree: ast.expr) -> list[ast.expr]:
    """Split a query at its top-level `and`s: one row of a flow each."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return [part for value in tree.values for part in clauses(value)]
    return [tree]


def names(tree: ast.expr) -> list[str]:
    """Return the columns that a query asks for, in order of appearance."""
    found = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id != "missing"]
    return list(dict.fromkeys(found))


def evaluate(tree: ast.expr, columns: Mapping[str, pd.Series[Any]]) -> pd.Series[Any]:
    """Evaluate a parsed query: a nullable boolean per row, NA where a value is missing.

    Parameters
    ----------
    tree : expr
        From :func:`parse`.
    columns : mapping of name to Series
        With nullable dtypes.
    """
    result = _value(tree, columns)
    if not isinstance(result, pd.Series) or result.dtype != "boolean":
        raise QueryError(f"{ast.unparse(tree)!r}", expected="a condition, true or false",
                         where="query")  # fmt: skip
    return result


def _value(node: ast.AST, columns: Mapping[str, pd.Series[Any]]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _column(name, columns)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return [_value(item, columns) for item in items]
        case ast.Call(args=[ast.Name(id=name)]):
            return _column(name, columns).isna().astype("boolean")
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return ~_condition(inner, columns)
        case ast.UnaryOp(operand=inner):
            return -_value(inner, columns)
        case ast.BinOp(left=left, right=right, op=op):
            return _apply(
                _ARITHMETIC[type(op)], _value(left, columns), _value(right, columns), node
            )
        case ast.BoolOp(op=op, values=parts):
            both = operator.and_ if isinstance(op, ast.And) else operator.or_
            result = _condition(parts[0], columns)
            for part in parts[1:]:
                result = both(result, _condition(part, columns))
            return result
        case ast.Compare(left=left, ops=comparisons, comparators=others):
            value, total = _value(left, columns), None
            for comparison, other in zip(comparisons, others, strict=True):
                right = _value(other, columns)
                part = _compare(comparison, value, right, node)
                total, value = (part if total is None else total & part), right
            return total
    raise QueryError(f"{ast.unparse(node)!r}", expected=_LANGUAGE, where="query")


def _condition(node: ast.AST, columns: Mapping[str, pd.Series[Any]]) -> Any:
    value = _value(node, columns)
    if isinstance(value, pd.Series) and value.dtype == "boolean":
        return value
    raise QueryError(f"{ast.unparse(node)!r}", expected="a condition, true or false", where="query")


def _compare(op: ast.cmpop, left: Any, right: Any, node: ast.AST) -> Any:
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(left, pd.Series) or not isinstance(right, list):
            raise QueryError(
                f"{ast.unparse(node)!r}", expected="a column in (value, value)", where="query"
            )
        for value in right:
            _same_kind(left, value, node)
        inside = left.isin(right).astype("boolean").mask(left.isna())
        return ~inside if isinstance(op, ast.NotIn) else inside
    if type(op) not in _COMPARE:
        raise QueryError(f"{ast.unparse(node)!r}", expected=_LANGUAGE, where="query")
    if isinstance(left, pd.Series):
        _same_kind(left, right, node)
    elif isinstance(right, pd.Series):
        _same_kind(right, left, node)
    result = _apply(_COMPARE[type(op)], left, right, node)
    return result.astype("boolean") if isinstance(result, pd.Series) else result


def _same_kind(column: pd.Series[Any], other: Any, node: ast.AST) -> None:
    """Refuse to compare words with numbers: it would be false everywhere, in silence."""
    word = isinstance(other, str) or (
        isinstance(other, pd.Series) and isinstance(other.dtype, pd.StringDtype)
    )
    if isinstance(column.dtype, pd.StringDtype) != word:
        kinds = ("words", "a number") if not word else ("numbers", "a word")
        known = ""
        if not word:
            known = f" ({', '.join(sorted(column.dropna().unique())[:6])})"
        raise QueryError(
            f"{ast.unparse(node)!r}, which compares {kinds[0]}{known} with {kinds[1]}",
            expected="the same kind on both sides",
            where="query",
        )


def _apply(function: Callable[[Any, Any], Any], left: Any, right: Any, node: ast.AST) -> Any:
    try:
        return function(left, right)
    except (TypeError, ZeroDivisionError) as error:
        raise QueryError(
            f"{ast.unparse(node)!r} ({error})", expected=_LANGUAGE, where="query"
        ) from None


def _column(name: str, columns: Mapping[str, pd.Series[Any]]) -> pd.Series[Any]:
    if name not in columns:
        raise unknown_column(name, columns)
    return columns[name]


def unknown_column(name: str, known: Mapping[str, Any]) -> QueryError:
    """Return the error for a name that is no column, with the nearest ones."""
    near = difflib.get_close_matches(name, known, n=3)
    return QueryError(
        f"no column {name!r}",
        expected=f"one of {', '.join(known)}",
        where="query",
        todo=f"Did you mean {' or '.join(near)}?" if near else "",
    )
