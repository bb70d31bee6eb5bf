"""Cohort queries, in a small language that is parsed and never evaluated as code.

Examples of queries are ``knee == 'right' and kl >= 2``, ``timepoint in (0, 12)``,
``not sex == 'female'``, ``bmi / 2 < 14`` and ``missing(kl)``. A comparison with a missing value is
neither true nor false (Kleene logic), so ``not kl >= 2`` does not select knees whose grade is
unknown.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

import pandas as pd

from qmri_lake.errors import QueryError
from qmri_lake.store.columns import unknown_column

__all__ = ["clauses", "evaluate", "names", "parse"]

Operand: TypeAlias = "pd.Series | str | float | bool | list[Operand]"
"""Value of a part of a query: a column, a constant, or the list after ``in``."""

_COMPARE: Mapping[type[ast.cmpop], Callable[[Operand, Operand], Operand]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Operand, Operand], Operand]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LANGUAGE = "comparisons, in (...), and/or/not, + - * /, missing(name), column names, constants"
_LIST = "a column in (value, value)"
_MAX_LENGTH = 2000
_MAX_DEPTH = 50
_MAX_SHOWN = 120


def parse(text: object) -> ast.expr:
    """Parse a query and check that it uses only the query language.

    Raises
    ------
    QueryError
        If the query is invalid. The message gives the position of the error, or the elements of the
        language.
    """
    if not isinstance(text, str):
        raise QueryError(
            f"a query of type {type(text).__name__}",
            expected="text",
            where="query",
            todo="Select a list or a table of exams or patients by lake.cohort(ids=...).",
        )
    if len(text) > _MAX_LENGTH:
        raise QueryError(
            f"a query of {len(text):,} characters",
            expected=f"at most {_MAX_LENGTH:,}",
            where="query",
            todo="Select a list of exams or patients by lake.cohort(ids=[...]), or on the command "
            "line by --cohort @ids.csv.",
        )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = getattr(error, "offset", None)
        raise QueryError(
            f"invalid syntax{f' at character {place}' if place else ''} in {_quote(text)}",
            expected="a condition such as knee == 'right' and kl >= 2",
            where="query",
        ) from None
    _check(tree, text)
    return tree


def _check(node: ast.AST, text: str, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise QueryError(
            f"too many nested levels in {_quote(text)}",
            expected=f"at most {_MAX_DEPTH}",
            where="query",
        )
    match node:
        case ast.BoolOp(values=parts):
            children: list[ast.AST] = list(parts)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=inner):
            children = [inner]
        case ast.Compare(left=left, ops=ops, comparators=others):
            children = [left]
            for op, other in zip(ops, others, strict=True):
                children += _list_values(other) if isinstance(op, ast.In | ast.NotIn) else [other]
        case ast.BinOp(left=left, right=right, op=op) if type(op) in _ARITHMETIC:
            children = [left, right]
        case ast.Call(func=ast.Name(id="missing"), args=[ast.Name() as name], keywords=[]):
            children = [name]
        case ast.Name():
            children = []
        case ast.Constant(value=value) if isinstance(value, str | int | float | bool):
            children = []
        case _:
            raise QueryError(
                f"{_quote(node)} is not allowed in {_quote(text)}",
                expected=_LANGUAGE,
                where="query",
            )
    for child in children:
        _check(child, text, depth + 1)


def _list_values(node: ast.expr) -> list[ast.expr]:
    """Return the values of a list; lists are allowed only after `in`."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        plain = [n.operand if isinstance(n, ast.UnaryOp) else n for n in node.elts]
        if all(isinstance(n, ast.Constant) for n in plain):
            return node.elts
    raise QueryError(f"{_quote(node)} is not a list of values", expected=_LIST, where="query")


def _quote(query: str | ast.AST) -> str:
    text = query if isinstance(query, str) else ast.unparse(query)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def clauses(tree: ast.expr) -> list[ast.expr]:
    """Split a query at each top-level ``and``. Each part becomes a row of the flow."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return [part for value in tree.values for part in clauses(value)]
    return [tree]


def names(tree: ast.expr) -> list[str]:
    """Return the names of the columns in a query, in order of appearance."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id != "missing"]
    found.sort(key=lambda n: (n.lineno, n.col_offset))
    return list(dict.fromkeys(n.id for n in found))


def evaluate(tree: ast.expr, columns: Mapping[str, pd.Series]) -> pd.Series:
    """Evaluate a parsed query to a nullable boolean for each row; NA if a value is missing.

    Parameters
    ----------
    tree : expr
        The query, as returned by `parse`.
    columns : mapping of name to Series
        Columns of the query, with nullable dtypes.
    """
    result = _value(tree, columns)
    if not isinstance(result, pd.Series) or result.dtype != "boolean":
        raise _not_a_condition(tree)
    return result


def _value(node: ast.AST, columns: Mapping[str, pd.Series]) -> Operand:
    match node:
        case ast.Constant(value=str() | int() | float() as constant):  # bool is an int
            return constant
        case ast.Name(id=name):
            return _column(name, columns)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return [_value(item, columns) for item in items]
        case ast.Call(args=[ast.Name(id=name)]):
            return _column(name, columns).isna().astype("boolean")
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return ~_condition(inner, columns)
        case ast.UnaryOp(operand=inner):
            return _apply(operator.neg, node, _number(inner, columns))
        case ast.BinOp(left=left, right=right, op=op):
            sides = _number(left, columns), _number(right, columns)
            return _apply(_ARITHMETIC[type(op)], node, *sides)
        case ast.BoolOp(op=op, values=parts):
            both = operator.and_ if isinstance(op, ast.And) else operator.or_
            combined = _condition(parts[0], columns)
            for part in parts[1:]:
                combined = both(combined, _condition(part, columns))
            return combined
        case ast.Compare(left=left, ops=comparisons, comparators=others):
            pairs = itertools.pairwise(_value(part, columns) for part in (left, *others))
            results = (
                _compare(comparison, *pair, node)
                for comparison, pair in zip(comparisons, pairs, strict=True)
            )
            return functools.reduce(operator.and_, results)
    raise QueryError(f"{_quote(node)} is not allowed", expected=_LANGUAGE, where="query")


def _number(node: ast.AST, columns: Mapping[str, pd.Series]) -> Operand:
    """Evaluate an operand of arithmetic as floats, because integers would overflow silently."""
    value = _value(node, columns)
    if _kind(value) != "number":
        raise QueryError(
            f"{_quote(node)} is not a number",
            expected="numbers on both sides of + - * /",
            where="query",
        )
    return value.astype("Float64") if isinstance(value, pd.Series) else _apply(float, node, value)


def _condition(node: ast.AST, columns: Mapping[str, pd.Series]) -> pd.Series:
    value = _value(node, columns)
    if isinstance(value, pd.Series) and value.dtype == "boolean":
        return value
    raise _not_a_condition(node)


def _not_a_condition(node: ast.AST) -> QueryError:
    return QueryError(
        f"{_quote(node)} is not a condition",
        expected="a condition, which is true or false",
        where="query",
    )


def _compare(op: ast.cmpop, left: Operand, right: Operand, node: ast.AST) -> Operand:
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(left, pd.Series) or not isinstance(right, list):
            found = f"{_quote(node)} has no column before 'in'"
            raise QueryError(found, expected=_LIST, where="query")
        for value in right:
            _same_kind(left, value, node)
        inside = left.isin(right).astype("boolean").mask(left.isna())
        return ~inside if isinstance(op, ast.NotIn) else inside
    if type(op) not in _COMPARE or isinstance(left, list):
        raise QueryError(f"{_quote(node)} is not allowed", expected=_LANGUAGE, where="query")
    _same_kind(left, right, node)
    result = _apply(_COMPARE[type(op)], node, left, right)
    return result.astype("boolean") if isinstance(result, pd.Series) else result


def _kind(value: Operand) -> str:
    if isinstance(value, pd.Series):
        if isinstance(value.dtype, pd.StringDtype):
            return "string"
        return "condition" if value.dtype == "boolean" else "number"
    return (
        "string" if isinstance(value, str) else "condition" if isinstance(value, bool) else "number"
    )


def _same_kind(left: Operand, right: Operand, node: ast.AST) -> None:
    """Raise an error if strings are compared with numbers, which would be False for all exams."""
    if _kind(left) != _kind(right):
        raise QueryError(
            f"{_quote(node)} compares {_described(left)} with {_described(right)}",
            expected="the same type on both sides",
            where="query",
        )
    for column, word in ((left, right), (right, left)):
        known = column.attrs.get("words") if isinstance(column, pd.Series) else None
        if known and isinstance(word, str) and word not in known:
            raise QueryError(
                f"unknown value {word!r} in {_quote(node)}",
                expected=f"one of {', '.join(map(repr, known))}",
                where="query",
            )


def _described(value: Operand) -> str:
    kind = _kind(value)
    if not isinstance(value, pd.Series):
        return f"a {kind}"
    known = sorted(value.dropna().unique())[:6] if kind == "string" else []
    return f"{kind}s" + (f" ({', '.join(known)})" if known else "")


def _apply(function: Callable[..., Operand], node: ast.AST, *values: Operand) -> Operand:
    try:
        return function(*values)
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise QueryError(f"{_quote(node)}: {error}", expected=_LANGUAGE, where="query") from None


def _column(name: str, columns: Mapping[str, pd.Series]) -> pd.Series:
    if name not in columns:
        raise unknown_column(name, columns)
    return columns[name]
