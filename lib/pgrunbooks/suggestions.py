"""Suggestions: the remedies that a check may offer, read from its source without asking any server.

A remedy is made for the object that was found, so its texts are templates here: ``{table}`` stands for what the finding
names, ``[one | other]`` for what depends on it. This is for the reference pages; nothing here is on the way of a run.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from types import FunctionType
from typing import Any

from pgrunbooks.check import Check, Remedy
from pgrunbooks.checks._sessions import literal

_DEPTH = 8  # of calls, which is more than any check has


@dataclass(frozen=True)
class Suggestion:
    """What a remedy says, as templates; None where it says nothing."""

    title: str
    sql: str | None
    risk: str
    locks: str | None

    def stands_for(self, remedy: Remedy) -> bool:
        """Tell whether this is what the check's page says of a remedy that was found."""
        texts = ((self.title, remedy.title), (self.sql, remedy.sql), (self.locks, remedy.locks))
        return remedy.risk in self.risk and all(
            template == text or (template and text and _pattern(template).fullmatch(text)) for template, text in texts
        )


_FIELDS = tuple(inspect.signature(Remedy).parameters)


def _pattern(template: str) -> re.Pattern[str]:
    """Return what a template allows: anything for what depends on the finding, and else its words."""
    gap = "\0"
    template = re.sub(r"\{[^{}]*\}|…", gap, template)
    while "[" in template and template != (closed := re.sub(r"\[[^\[\]]*\]", gap, template)):
        template = closed
    return re.compile(".*".join(map(re.escape, template.split(gap))), re.DOTALL)


def suggestions(check: Check) -> list[Suggestion]:
    """Return what the judge of a check may suggest, each once, in the order in which its source has them."""
    if not isinstance(check.judge, FunctionType):
        return []
    return list(dict.fromkeys(_of_function(_Scope(check.judge))))


@dataclass(frozen=True)
class _Scope:
    """A function, and the templates that it was given for its parameters."""

    function: FunctionType
    given: Mapping[str, str] = field(default_factory=dict)
    depth: int = 0

    @property
    def tree(self) -> ast.FunctionDef:
        return _tree(self.function)

    def known(self, name: str) -> Any:
        """Return what a name means in the function's module; None for what it does not know."""
        return self.function.__globals__.get(name)

    def assigned(self, name: str) -> list[ast.expr]:
        """Return the expressions that the function assigns to a name of its own."""
        return [
            node.value
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id == name
        ]


@cache
def _tree(function: FunctionType) -> ast.FunctionDef:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _of_function(scope: _Scope) -> Iterator[Suggestion]:
    for node in _in_order(scope.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = scope.known(node.func.id)
            if called is Remedy:
                yield _suggestion(_arguments(_FIELDS, node), scope)
            elif isinstance(called, FunctionType) and _is_ours(called, scope) and scope.depth < _DEPTH:
                yield from _of_function(_inside(called, node, scope))
        elif isinstance(node, ast.Name):
            yield from map(_as_it_is, _remedies_in(scope.known(node.id)))


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _is_ours(function: FunctionType, scope: _Scope) -> bool:
    """Tell a function of the check's own, or one that checks share, from the rest of the library."""
    is_near = function.__module__ == scope.function.__module__ or function.__module__.startswith("pgrunbooks.checks.")
    return is_near and inspect.unwrap(function) is function


def _remedies_in(value: object) -> Iterable[Remedy]:
    if isinstance(value, Remedy):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [it for it in values if isinstance(it, Remedy)]


def _as_it_is(remedy: Remedy) -> Suggestion:
    return Suggestion(remedy.title, remedy.sql, remedy.risk, remedy.locks)


def _arguments(names: Iterable[str], call: ast.Call) -> dict[str, ast.expr]:
    positional = {name: value for name, value in zip_longest(names, call.args) if name and value}
    return positional | {it.arg: it.value for it in call.keywords if it.arg}


def _inside(function: FunctionType, call: ast.Call, scope: _Scope) -> _Scope:
    parameters = inspect.signature(function).parameters
    arguments = _arguments(parameters, call)
    rest = {name: "" for name, it in parameters.items() if it.kind is it.VAR_POSITIONAL}
    texts = rest | {name: _text(value, scope) for name, value in arguments.items() if _says_something(value, scope)}
    return _Scope(function, texts, scope.depth + 1)


def _says_something(node: ast.expr, scope: _Scope) -> bool:
    """Tell a text that is handed over from a row or a number."""
    if isinstance(node, ast.Name):
        return node.id in scope.given or any(_says_something(it, scope) for it in scope.assigned(node.id))
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _suggestion(arguments: Mapping[str, ast.expr], scope: _Scope) -> Suggestion:
    texts = {name: _text(node, scope) or None for name, node in arguments.items()}
    return Suggestion(texts["title"] or "", texts.get("sql"), texts.get("risk") or Remedy.risk, texts.get("locks"))


def _text(node: ast.expr, scope: _Scope) -> str:
    """Return the template of a text that an expression makes."""
    match node:
        case ast.Constant(value=None):
            return ""
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(_text(part, scope) for part in node.values)
        case ast.FormattedValue():
            return _text(node.value, scope)
        case ast.BinOp(op=ast.Add()) if _makes_text(node.left) or _makes_text(node.right):
            return _text(node.left, scope) + _text(node.right, scope)
        case ast.IfExp():
            return _either(_text(node.body, scope), _text(node.orelse, scope))
        case ast.Name():
            return _name(node.id, scope)
        case ast.Subscript():
            return _item(node, scope)
        case ast.Call():
            return _call(node, scope)
        case ast.Attribute():
            return f"{{{_words(node.attr)}}}"
        case _:
            return "…"


def _either(*texts: str) -> str:
    texts = tuple(dict.fromkeys(texts))
    return texts[0] if len(texts) == 1 else f"[{' | '.join(filter(None, texts))}]"


def _name(name: str, scope: _Scope) -> str:
    if name in scope.given:
        return scope.given[name]
    if isinstance(known := scope.known(name), (str, int)):
        return str(known)
    texts = [_text(it, scope) for it in scope.assigned(name) if _makes_text(it)]
    return _either(*texts) if texts else f"{{{_words(name)}}}"


def _makes_text(node: ast.expr) -> bool:
    if isinstance(node, ast.IfExp):
        return _makes_text(node.body) and _makes_text(node.orelse)
    if isinstance(node, ast.BinOp):
        return _makes_text(node.left) or _makes_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _item(node: ast.Subscript, scope: _Scope) -> str:
    if isinstance(node.value, ast.Name):
        for table in scope.assigned(node.value.id):
            if isinstance(table, ast.Dict):
                return _either(*(_text(it, scope) for it in table.values))
    key = node.slice
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return f"{{{_words(key.value)}}}"
    return _text(node.value, scope)


def _call(node: ast.Call, scope: _Scope) -> str:
    if isinstance(node.func, ast.Attribute):
        if node.func.attr == "join" and node.args:
            return _joined(node.args[0], _text(node.func.value, scope), scope)
        if node.func.attr == "format" and node.args:
            return _text(node.func.value, scope).replace("{}", _text(node.args[0], scope))
        return f"{{{_words(node.func.attr)}}}"
    if isinstance(node.func, ast.Name):
        called = scope.known(node.func.id)
        if called is literal:
            return f"'{_text(node.args[0], scope)}'"
        if isinstance(called, FunctionType) and _is_ours(called, scope) and scope.depth < _DEPTH:
            inner = _inside(called, node, scope)
            returned = [it.value for it in ast.walk(inner.tree) if isinstance(it, ast.Return) and it.value]
            if returned and all(_makes_text(it) for it in returned):
                return _either(*(_text(it, inner) for it in returned))
    return _text(node.args[0], scope) if node.args else "…"


def _joined(node: ast.expr, glue: str, scope: _Scope) -> str:
    if isinstance(node, ast.Name):
        lists = [it for it in scope.assigned(node.id) if isinstance(it, (ast.List, ast.Tuple, ast.ListComp))]
        return _joined(lists[0], glue, scope) if lists else _name(node.id, scope)
    if isinstance(node, (ast.List, ast.Tuple)):
        parts = [
            _joined(it.value, glue, scope) if isinstance(it, ast.Starred) else _text(it, scope) for it in node.elts
        ]
        return glue.join(filter(None, parts))
    if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
        return _text(node.elt, scope)
    return _text(node, scope)


def _words(name: str) -> str:
    return name.strip("_").lower().removeprefix("quoted_").replace("_", " ")
