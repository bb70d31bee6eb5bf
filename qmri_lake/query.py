"""Cohort queries: a small, closed language, parsed and never evaluated as code.

``knee == 'right' and kl >= 2``, ``timepoint in (0, 12)``, ``not sex == 'female'``,
``bmi / 2 < 14``, ``missing(kl)``. A comparison with a missing value is neither true nor false
(Kleene logic), so ``not kl >= 2`` does not select knees whose grade is unknown.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from qmri_lake.errors import QueryError, did_you_mean

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
_LIST = "a column in (value, value)"
_LONGEST = 2000
_DEEPEST = 50
_SHOWN = 120


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
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = getattr(error, "offset", None)
        raise QueryError(
            _shown(text) + (f", which goes wrong at character {place}" if place else ""),
            expected="a condition such as knee == 'right' and kl >= 2",
            where="query",
        ) from None
    _check(tree, text)
    return tree


def _check(node: ast.AST, text: str, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise QueryError(
            _shown(text), expected=f"at most {_DEEPEST} levels, one inside the other", where="query"
        )
    match node:
        case ast.BoolOp(values=parts):
            children: list[ast.AST] = list(parts)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=inner):
            children = [inner]
        case ast.Compare(left=left, ops=ops, comparators=others):
            children = [left]
            for op, other in zip(ops, others, strict=True):
                children += _listed(other) if isinstance(op, ast.In | ast.NotIn) else [other]
        case ast.BinOp(left=left, right=right, op=op) if type(op) in _ARITHMETIC:
            children = [left, right]
        case ast.Call(func=ast.Name(id="missing"), args=[ast.Name() as name], keywords=[]):
            children = [name]
        case ast.Name():
            children = []
        case ast.Constant(value=value) if isinstance(value, str | int | float | bool):
            children = []
        case _:
            raise QueryError(f"{_shown(node)} in {_shown(text)}", expected=_LANGUAGE, where="query")
    for child in children:
        _check(child, text, depth + 1)


def _listed(node: ast.expr) -> list[ast.expr]:
    """Return the values of a list, which stands nowhere but after `in`."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        plain = [n.operand if isinstance(n, ast.UnaryOp) else n for n in node.elts]
        if all(isinstance(n, ast.Constant) for n in plain):
            return node.elts
    raise QueryError(_shown(node), expected=_LIST, where="query")


def _shown(query: str | ast.AST) -> str:
    text = query if isinstance(query, str) else ast.unparse(query)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def clauses(tree: ast.expr) -> list[ast.expr]:
    """Split a query at its top-level `and`s: one row of a flow each."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return [part for value in tree.values for part in clauses(value)]
    return [tree]


def names(tree: ast.expr) -> list[str]:
    """Return the columns that a query asks for, in order of appearance."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id != "missing"]
    found.sort(key=lambda n: (n.lineno, n.col_offset))
    return list(dict.fromkeys(n.id for n in found))


def evaluate(tree: ast.expr, columns: Mapping[str, pd.Series[Any]]) -> pd.Series[Any]:
    """Evaluate a parsed query: a nullable boolean per row, NA where a value is missing.

    Parameters
    ----------
    tree : expr
        From `parse`.
    columns : mapping of name to Series
        With nullable dtypes.
    """
    result = _value(tree, columns)
    if not isinstance(result, pd.Series) or result.dtype != "boolean":
        raise QueryError(_shown(tree), expected="a condition, true or false", where="query")
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
            return _apply(operator.neg, node, _number(inner, columns))
        case ast.BinOp(left=left, right=right, op=op):
            sides = _number(left, columns), _number(right, columns)
            return _apply(_ARITHMETIC[type(op)], node, *sides)
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
    raise QueryError(_shown(node), expected=_LANGUAGE, where="query")


def _number(node: ast.AST, columns: Mapping[str, pd.Series[Any]]) -> Any:
    """Evaluate one side of an arithmetic, as floats: integers would overflow in silence."""
    value = _value(node, columns)
    if _kind(value) != "number":
        raise QueryError(f"{_shown(node)}, which is no number", expected="numbers around + - * /",
                         where="query")  # fmt: skip
    return value.astype("Float64") if isinstance(value, pd.Series) else _apply(float, node, value)


def _condition(node: ast.AST, columns: Mapping[str, pd.Series[Any]]) -> Any:
    value = _value(node, columns)
    if isinstance(value, pd.Series) and value.dtype == "boolean":
        return value
    raise QueryError(_shown(node), expected="a condition, true or false", where="query")


def _compare(op: ast.cmpop, left: Any, right: Any, node: ast.AST) -> Any:
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(left, pd.Series):
            raise QueryError(_shown(node), expected=_LIST, where="query")
        for value in right:
            _same_kind(left, value, node)
        inside = left.isin(right).astype("boolean").mask(left.isna())
        return ~inside if isinstance(op, ast.NotIn) else inside
    if type(op) not in _COMPARE or isinstance(left, list):
        raise QueryError(_shown(node), expected=_LANGUAGE, where="query")
    _same_kind(left, right, node)
    result = _apply(_COMPARE[type(op)], node, left, right)
    return result.astype("boolean") if isinstance(result, pd.Series) else result


def _kind(value: Any) -> str:
    if isinstance(value, pd.Series):
        if isinstance(value.dtype, pd.StringDtype):
            return "word"
        return "condition" if value.dtype == "boolean" else "number"
    return (
        "word" if isinstance(value, str) else "condition" if isinstance(value, bool) else "number"
    )


def _same_kind(left: Any, right: Any, node: ast.AST) -> None:
    """Refuse to compare words with numbers: it would be false everywhere, in silence."""
    if _kind(left) != _kind(right):
        raise QueryError(
            f"{_shown(node)}, which compares {_described(left)} with {_described(right)}",
            expected="the same kind on both sides",
            where="query",
        )
    for column, word in ((left, right), (right, left)):
        known = column.attrs.get("words") if isinstance(column, pd.Series) else None
        if known and isinstance(word, str) and word not in known:
            raise QueryError(
                f"{word!r} in {_shown(node)}",
                expected=f"one of {', '.join(map(repr, known))}",
                where="query",
            )


def _described(value: Any) -> str:
    kind = _kind(value)
    if not isinstance(value, pd.Series):
        return f"a {kind}"
    known = sorted(value.dropna().unique())[:6] if kind == "word" else []
    return f"{kind}s" + (f" ({', '.join(known)})" if known else "")


def _apply(function: Callable[..., Any], node: ast.AST, *values: Any) -> Any:
    try:
        return function(*values)
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise QueryError(f"{_shown(node)} ({error})", expected=_LANGUAGE, where="query") from None


def _column(name: str, columns: Mapping[str, pd.Series[Any]]) -> pd.Series[Any]:
    if name not in columns:
        raise unknown_column(name, columns)
    return columns[name]


def unknown_column(name: str, known: Mapping[str, Any]) -> QueryError:
    """Return the error for a name that is no column, with the nearest ones."""
    return QueryError(
        f"no column {name!r}",
        expected=f"one of {', '.join(known)}",
        where="query",
        todo=did_you_mean(name, known) or f"A word needs quotes: '{name}'.",
    )
