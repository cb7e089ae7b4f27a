"""A statement read with the scopes that the server would give it: which table is asked for what.

The parser is PostgreSQL's own, through pglast. Names are resolved as the server resolves them: aliases, CTEs, derived
tables, views and set operations are followed down to the table that a column comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pglast import ast, enums, parse_sql
from pglast.parser import ParseError

from pgrunbooks.advice.accesses import Access, Find, Key, Kind, NotUnderstood, Order, Parsed, Predicate, Write
from pgrunbooks.advice.expressions import expression, is_fixed, literal_of, nodes, plain_items, quoted

# What a comparison asks of an index. LIKE is decided by its pattern, where that is known.
_KINDS: Mapping[str, Kind] = {
    "=": "equal",
    **dict.fromkeys(("in", "any"), "among"),
    **dict.fromkeys(("<", "<=", ">", ">="), "range"),
    "^@": "prefix",
    **dict.fromkeys(("~~*", "~", "~*"), "pattern"),
    **dict.fromkeys(("@>", "<@", "&&", "?", "?|", "?&", "@@", "@?", "<<", "<<=", ">>", ">>="), "contains"),
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "@>": "<@", "<@": "@>", "=": "=", "&&": "&&", "@@": "@@"}
_FIRST_OR_LAST = frozenset({"min", "max"})
_AGGREGATES = frozenset(["min", "max", "count", "sum", "avg", "array_agg", "string_agg", "json_agg", "jsonb_agg"])
_AGGREGATES |= {"bool_or", "bool_and", "every", "stddev", "variance", "percentile_cont", "percentile_disc", "mode"}


def parse(text: str, find: Find, path: Sequence[str] = ()) -> Parsed:
    """Return what a statement asks of each of its tables; ``path`` has the schemas in which it looks for bare names.

    Raises NotUnderstood for a text that is no single SELECT, INSERT, UPDATE, DELETE or MERGE that can be read.
    """
    try:
        statements = parse_sql(text)
    except ParseError as error:
        raise NotUnderstood(f"no SQL: {error.args[0]}") from None
    if len(statements) != 1:
        raise NotUnderstood("not a single statement")
    reader = _Reader(find, path)
    try:
        reader.statement(statements[0].stmt, _Scope())
    except RecursionError:
        raise NotUnderstood("nested too deeply") from None
    relations = [relation for relation in reader.relations if relation.table]
    return Parsed(
        text=reader.qualified(text),
        accesses=tuple(relation.access() for relation in relations),
        writes=tuple(reader.writes),
        tables=frozenset(reader.tables),
        limits=frozenset(reader.limits),
        offsets=frozenset(reader.offsets),
        lost=frozenset(reader.lost),
        condenses=any(map(_condenses, nodes(statements[0].stmt))),
    )


@dataclass(eq=False)
class _Relation:
    """One appearance of a table while its statement is read; ``outputs`` instead of a table for anything derived."""

    alias: str
    table: str | None = None
    names: Sequence[str] = ()
    outputs: Mapping[str, _Refs] = field(default_factory=dict)
    predicates: list[Predicate] = field(default_factory=list)
    alternatives: list[tuple[Predicate, ...]] = field(default_factory=list)
    order: tuple[Order, ...] = ()
    groups: tuple[Key, ...] = ()
    read: set[str] = field(default_factory=set)
    whole: bool = False

    def refs(self, name: str) -> _Refs | None:
        """Return where a column of this relation comes from; None where it has no such column."""
        if self.table:
            return (_Ref(self, Key(quoted(name), frozenset({name}))),) if name in self.names else None
        return self.outputs.get(name)

    def read_all(self) -> None:
        self.whole = True
        for refs in self.outputs.values():
            for ref in refs:
                ref.relation.read |= ref.key.columns

    def access(self) -> Access:
        return Access(
            self.table or "",
            tuple(dict.fromkeys(self.predicates)),
            tuple(dict.fromkeys(self.alternatives)),
            self.order,
            self.groups,
            None if self.whole else frozenset(self.read),
        )


@dataclass(frozen=True)
class _Ref:
    relation: _Relation
    key: Key


_Refs: TypeAlias = tuple[_Ref, ...]
_Sink: TypeAlias = list[tuple[_Relation, Predicate]]


@dataclass
class _Scope:
    """The relations of one query level, and the levels around it."""

    outer: _Scope | None = None
    relations: list[_Relation] = field(default_factory=list)
    ctes: dict[str, Mapping[str, _Refs]] = field(default_factory=dict)

    def cte(self, name: str) -> Mapping[str, _Refs] | None:
        if name in self.ctes:
            return self.ctes[name]
        return self.outer.cte(name) if self.outer else None

    def column(self, fields: Sequence[str]) -> _Refs:
        for relation in self.relations:
            if len(fields) == 1 or fields[-2] == relation.alias:
                refs = relation.refs(fields[-1])
                if refs is not None:
                    return refs
        return self.outer.column(fields) if self.outer else ()

    def relation(self, alias: str) -> _Relation | None:
        for relation in self.relations:
            if relation.alias == alias:
                return relation
        return self.outer.relation(alias) if self.outer else None


class _Reader:
    def __init__(self, find: Find, path: Sequence[str]) -> None:
        self.find = find
        self.path = path
        self.relations: list[_Relation] = []
        self.writes: list[Write] = []
        self.tables: set[str] = set()
        self.limits: set[int] = set()
        self.offsets: set[int] = set()
        self.lost: set[str] = set()
        self._names: dict[int, str] = {}  # where a name without a schema stands -> its schema's prefix
        self._views = 0

    def qualified(self, text: str) -> str:
        """Return the text with the schema put before every table that was named without it."""
        for location in sorted(self._names, reverse=True):
            text = text[:location] + self._names[location] + text[location:]
        return text

    # Statements

    def statement(self, node: Any, outer: _Scope) -> Mapping[str, _Refs]:
        match node:
            case ast.SelectStmt():
                return self.select(node, outer)
            case ast.InsertStmt():
                return self.insert(node, outer)
            case ast.UpdateStmt() | ast.DeleteStmt() | ast.MergeStmt():
                return self.change(node, outer)
            case ast.DeclareCursorStmt():
                return self.statement(node.query, outer)
        raise NotUnderstood(f"{type(node).__name__.removesuffix('Stmt')} is no statement that reads by an index")

    def select(self, node: Any, outer: _Scope) -> Mapping[str, _Refs]:
        scope = self.scope(node, outer)
        if node.larg and node.rarg:
            left, right = self.select(node.larg, scope), self.select(node.rarg, scope)
            self.limited(node)
            # the names are the left arm's, the columns of the right arm follow by position
            rest = [*right.values(), *[()] * len(left)]
            return {name: (*refs, *others) for (name, refs), others in zip(left.items(), rest, strict=False)}
        sink: _Sink = []
        for item in node.fromClause or ():
            self.source(item, scope, sink)
        self.conjuncts(node.whereClause, scope, sink)
        self.put(sink)
        outputs = self.targets(node.targetList, scope)
        self.columns(node.havingClause, scope)
        for row in node.valuesLists or ():
            self.columns(row, scope)
        self.ordering(node, scope)
        self.limited(node)
        if node.lockingClause:
            for relation in scope.relations:
                relation.whole = True
        return outputs if not node.limitCount else dict.fromkeys(outputs, ())

    def insert(self, node: Any, outer: _Scope) -> Mapping[str, _Refs]:
        scope = self.scope(node, outer)
        target = self.target(node.relation)
        if target.table:
            self.writes.append(Write(target.table, "insert"))
        if node.selectStmt:
            self.select(node.selectStmt, scope)
        inner = _Scope(scope, [target])
        conflict = node.onConflictClause
        if conflict and conflict.action == enums.OnConflictAction.ONCONFLICT_UPDATE and target.table:
            excluded = _Relation("excluded", outputs=dict.fromkeys(target.names, ()))
            inner.relations.append(excluded)
            self.writes.append(Write(target.table, "update", _set_columns(conflict.targetList)))
            self.columns(conflict.targetList, inner)
        return self.targets(_returning(node), inner)

    def change(self, node: Any, outer: _Scope) -> Mapping[str, _Refs]:
        scope = self.scope(node, outer)
        target = self.target(node.relation)
        target.whole = True  # the row itself is wanted
        scope.relations.append(target)
        sink: _Sink = []
        for item in getattr(node, "fromClause", None) or getattr(node, "usingClause", None) or ():
            self.source(item, scope, sink)
        if isinstance(node, ast.MergeStmt):
            self.source(node.sourceRelation, scope, sink)
            self.conjuncts(node.joinCondition, scope, sink)
            self.merge_clauses(node, target, scope)
        else:
            self.conjuncts(node.whereClause, scope, sink)
            self.columns(node.targetList if isinstance(node, ast.UpdateStmt) else None, scope)
            if target.table:
                is_update = isinstance(node, ast.UpdateStmt)
                changed = _set_columns(node.targetList) if is_update else frozenset()
                self.writes.append(Write(target.table, "update" if is_update else "delete", changed))
        self.put(sink)
        return self.targets(_returning(node), scope)

    def merge_clauses(self, node: Any, target: _Relation, scope: _Scope) -> None:
        commands: Mapping[Any, Literal["insert", "update", "delete"]] = {
            enums.CmdType.CMD_INSERT: "insert",
            enums.CmdType.CMD_UPDATE: "update",
            enums.CmdType.CMD_DELETE: "delete",
        }
        for clause in node.mergeWhenClauses or ():
            self.columns((clause.condition, clause.targetList, clause.values), scope)
            command = commands.get(clause.commandType)
            if command and target.table:
                changed = _set_columns(clause.targetList) if command == "update" else frozenset()
                self.writes.append(Write(target.table, command, changed))

    def scope(self, node: Any, outer: _Scope) -> _Scope:
        """Return the scope of a query with its CTEs read; a recursive one sees itself with nothing known of it."""
        scope = _Scope(outer)
        for cte in (node.withClause.ctes if node.withClause else None) or ():
            if node.withClause.recursive:
                scope.ctes[cte.ctename] = {}
            outputs = self.statement(cte.ctequery, scope)
            if cte.aliascolnames:
                names = [name.sval for name in cte.aliascolnames]
                outputs = dict(zip(names, outputs.values(), strict=False))
            scope.ctes[cte.ctename] = outputs
        return scope

    # FROM

    def source(self, node: Any, scope: _Scope, sink: _Sink) -> None:
        match node:
            case ast.RangeVar():
                self.named(node, scope)
            case ast.JoinExpr():
                before = len(scope.relations)
                self.source(node.larg, scope, sink)
                middle = len(scope.relations)
                self.source(node.rarg, scope, sink)
                left, right = scope.relations[before:middle], scope.relations[middle:]
                for name in self.merged(node, left, right):
                    ours, theirs = _first(left, name), _first(right, name)
                    for ref in (*ours, *theirs):
                        ref.relation.read |= ref.key.columns
                    self.compare(ours, "=", theirs, sink)
                self.conjuncts(node.quals, scope, sink)
            case ast.RangeSubselect():
                outputs = self.select(node.subquery, scope)
                scope.relations.append(_Relation(*_alias(node.alias, ""), outputs=_renamed(outputs, node.alias)))
            case ast.RangeTableSample():
                self.source(node.relation, scope, sink)
            case ast.RangeFunction():
                self.columns(node.functions, scope)
                scope.relations.append(_Relation(*_alias(node.alias, "")))
            case _:
                self.columns(node, scope)

    def merged(self, join: Any, left: Sequence[_Relation], right: Sequence[_Relation]) -> Iterable[str]:
        """Return the columns that USING or NATURAL makes equal."""
        if join.usingClause:
            return [name.sval for name in join.usingClause]
        if not join.isNatural:
            return ()
        names = [set().union(*(it.names or it.outputs for it in side)) for side in (left, right)]
        return sorted(names[0] & names[1])

    def named(self, node: Any, scope: _Scope) -> None:
        alias = node.alias.aliasname if node.alias else node.relname
        outputs = None if node.schemaname else scope.cte(node.relname)
        if outputs is not None:
            scope.relations.append(_Relation(alias, outputs=_renamed(outputs, node.alias)))
            return
        relation = self.table(node, alias)
        if not relation.table and relation.outputs:
            relation.outputs = _renamed(relation.outputs, node.alias)
        scope.relations.append(relation)

    def target(self, node: Any) -> _Relation:
        return self.table(node, node.alias.aliasname if node.alias else node.relname)

    def table(self, node: Any, alias: str) -> _Relation:
        found = self.find(node.schemaname, node.relname, () if self._views else self.path)  # a view has our own
        if not found:
            relation = _Relation(alias)
        else:
            name, columns = found
            self.tables.add(name)
            if not node.schemaname and not self._views:
                self._names[node.location or 0] = name[: _schema_end(name)]
            if isinstance(columns, str):
                relation = _Relation(alias, outputs=self.view(columns))
            else:
                relation = _Relation(alias, table=name, names=columns)
                self.relations.append(relation)
        return relation

    def view(self, definition: str) -> Mapping[str, _Refs]:
        self._views += 1
        if self._views > 20:
            raise NotUnderstood("views nested too deeply")
        try:
            return self.statement(parse_sql(definition)[0].stmt, _Scope())
        finally:
            self._views -= 1

    # Conditions

    def put(self, sink: _Sink) -> None:
        for relation, predicate in sink:
            relation.predicates.append(predicate)

    def conjuncts(self, node: Any, scope: _Scope, sink: _Sink) -> None:
        """Note what must hold of each relation for a condition to hold."""
        if node is None:
            return
        match node:
            case ast.BoolExpr(boolop=enums.BoolExprType.AND_EXPR):
                for part in node.args:
                    self.conjuncts(part, scope, sink)
            case ast.BoolExpr(boolop=enums.BoolExprType.OR_EXPR):
                self.either(node, scope)
            case ast.BoolExpr(args=(ast.ColumnRef(),)) | ast.ColumnRef() | ast.NullTest() | ast.BooleanTest():
                self.columns(node, scope)
                self.test(node, scope, sink)
            case ast.A_Expr():
                self.comparison(node, scope, sink)
            case ast.SubLink():
                self.sublink(node, scope, sink)
            case ast.BoolExpr(args=(ast.SubLink() as inner,)):  # NOT EXISTS, NOT IN: a join still
                self.sublink(inner, scope, [])
            case _:
                self.columns(node, scope)

    def either(self, node: Any, scope: _Scope) -> None:
        arms: list[_Sink] = []
        for arm in node.args:
            arms.append([])
            self.conjuncts(arm, scope, arms[-1])
        for relation in dict.fromkeys(it for arm in arms for it, _ in arm):
            own = [tuple(p for it, p in arm if it is relation) for arm in arms]
            if all(own):
                relation.alternatives += own

    def test(self, node: Any, scope: _Scope, sink: _Sink) -> None:
        """Note a condition that compares with nothing, such as IS NULL or a boolean column: a partial index may
        carry it.
        """
        inner = node
        while not isinstance(inner, ast.ColumnRef) and (below := _argument(inner)) is not None:
            inner = below
        for ref in self.keys(inner, scope):
            if not ref.relation.table:
                continue
            text = expression(node) if len(self.keys(inner, scope)) == 1 and _is_own(inner, ref) else None
            sink.append((ref.relation, Predicate("test", ref.key, "is", text=text)))

    def sublink(self, node: Any, scope: _Scope, sink: _Sink) -> None:
        outputs = self.select(node.subselect, scope)
        if node.testexpr is not None:
            self.columns(node.testexpr, scope)
            operator = node.operName[-1].sval if node.operName else "="
            tests = node.testexpr.args if isinstance(node.testexpr, ast.RowExpr) else (node.testexpr,)
            # VALUES, a function or an expression has no columns of a table, and can drive a join all the same
            for test, refs in zip(tests, [*outputs.values(), *[()] * len(tests)], strict=False):
                keys = self.keys(test, scope)
                self.compare(keys, operator, refs, sink)
                if not refs and _KINDS.get(operator) == "equal":
                    sink.extend((ref.relation, Predicate("equal", ref.key, operator, joins=True)) for ref in keys)

    def comparison(self, node: Any, scope: _Scope, sink: _Sink) -> None:
        self.columns((node.lexpr, node.rexpr), scope)
        kind, operator = node.kind, node.name[-1].sval
        left, right = node.lexpr, node.rexpr
        expressions = enums.A_Expr_Kind
        if kind == expressions.AEXPR_OP and isinstance(left, ast.RowExpr) and isinstance(right, ast.RowExpr):
            pairs = list(zip(left.args, right.args, strict=False))
            for one, other in pairs if operator == "=" else pairs[:1]:  # (a, b) > (1, 2) bounds a alone
                self.sides(node, one, operator, other, scope, sink)
        elif kind in (expressions.AEXPR_OP, expressions.AEXPR_LIKE, expressions.AEXPR_ILIKE):
            self.sides(node, left, operator, right, scope, sink)
        elif kind == expressions.AEXPR_IN and operator == "=" and isinstance(left, ast.RowExpr):
            rows = [it.args if isinstance(it, ast.RowExpr) else () for it in right]
            for one, others in zip(left.args, zip(*rows, strict=False), strict=False):
                self.one_side(node, one, "in", others, scope, sink)
        elif kind in (expressions.AEXPR_IN, expressions.AEXPR_OP_ANY) and operator == "=":
            self.one_side(node, left, "in" if kind == expressions.AEXPR_IN else "any", right, scope, sink)
        elif kind == expressions.AEXPR_BETWEEN:
            low, high = right
            self.one_side(node, left, ">=", low, scope, sink)
            self.one_side(node, left, "<=", high, scope, sink)

    def sides(self, node: Any, left: Any, operator: str, right: Any, scope: _Scope, sink: _Sink) -> None:
        ours, theirs = self.keys(left, scope), self.keys(right, scope)
        if ours and theirs:
            self.compare(ours, operator, theirs, sink)
        elif ours:
            self.one_side(node, left, operator, right, scope, sink)
        elif theirs and operator in _MIRRORED:
            self.one_side(node, right, _MIRRORED[operator], left, scope, sink)
        else:
            for side in (left, right):
                kinds = {type(it) for it in nodes(side)}
                if {ast.ParamRef, ast.ColumnRef} <= kinds and ast.SubLink not in kinds:
                    self.lost.add(expression(side))

    def compare(self, left: _Refs, operator: str, right: _Refs, sink: _Sink) -> None:
        """Note a comparison of columns of two relations, for each of them."""
        for mine, others, sign in ((left, right, operator), (right, left, _MIRRORED.get(operator, ""))):
            kind = _KINDS.get(sign)
            for ref in mine:
                if kind in ("equal", "range") and any(other.relation is not ref.relation for other in others):
                    sink.append((ref.relation, Predicate(kind, ref.key, sign, joins=True)))

    def one_side(self, node: Any, side: Any, operator: str, other: Any, scope: _Scope, sink: _Sink) -> None:
        """Note a comparison of a key with anything that is no key."""
        beyond = [ref for it in nodes(other) if isinstance(it, ast.ColumnRef) for ref in self.resolved(it, scope)]
        items = plain_items(_start_and_rest(other) if operator == "~~" else other)
        params = tuple(it.number for it in items if isinstance(it, ast.ParamRef))
        literal = literal_of(other)
        kind = _like(literal) if operator == "~~" else _KINDS.get(operator)
        if kind is None:
            return
        for ref in self.keys(side, scope):
            if any(it.relation is ref.relation for it in beyond):
                continue
            fixed = is_fixed(other) and _is_own(side, ref) and not isinstance(node.lexpr, ast.RowExpr)
            text = expression(node) if fixed else None
            sink.append((ref.relation, Predicate(kind, ref.key, operator, params, text, bool(beyond), literal)))

    # Columns

    def columns(self, node: Any, scope: _Scope) -> None:
        """Note every column that is read anywhere in an expression, and read the queries inside it."""
        if isinstance(node, tuple):
            for item in node:
                self.columns(item, scope)
        elif isinstance(node, ast.ColumnRef):
            self.column(node, scope)
        elif isinstance(node, ast.SubLink):
            self.sublink(node, scope, [])
        elif isinstance(node, ast.FuncCall):
            self.aggregate(node, scope)
            for name in node:
                self.columns(getattr(node, name), scope)
        elif isinstance(node, ast.Node):
            for name in node:
                self.columns(getattr(node, name), scope)

    def column(self, node: Any, scope: _Scope) -> None:
        fields = node.fields
        if isinstance(fields[-1], ast.A_Star):
            of = [scope.relation(fields[-2].sval)] if len(fields) > 1 else scope.relations
            for relation in of:
                if relation:
                    relation.read_all()
            return
        refs = self.resolved(node, scope)
        for ref in refs:
            ref.relation.read |= ref.key.columns
        if not refs and len(fields) == 1:
            row = scope.relation(fields[0].sval)
            if row:
                row.read_all()

    def resolved(self, node: Any, scope: _Scope) -> _Refs:
        if any(isinstance(it, ast.A_Star) for it in node.fields):
            return ()
        return scope.column([it.sval for it in node.fields])

    def keys(self, node: Any, scope: _Scope) -> _Refs:
        """Return what an expression is as a key of an index, for each table that it may come from; else nothing."""
        while isinstance(node, ast.CollateClause):
            return ()
        if isinstance(node, ast.ColumnRef):
            return tuple(ref for ref in self.resolved(node, scope) if ref.relation.table)
        if not isinstance(node, (ast.FuncCall, ast.A_Expr, ast.TypeCast, ast.CoalesceExpr, ast.A_Indirection)):
            return ()
        inside = list(nodes(node))
        if any(isinstance(it, (ast.ParamRef, ast.SubLink, ast.SQLValueFunction, ast.A_Star)) for it in inside):
            return ()
        if any(isinstance(it, ast.FuncCall) and (it.agg_star or it.over) for it in inside):
            return ()
        columns = [it for it in inside if isinstance(it, ast.ColumnRef)]
        found = [self.resolved(it, scope) for it in columns]
        relations = {refs[0].relation for refs in found if len(refs) == 1}
        same = all(len(refs) == 1 and _is_own(it, refs[0]) for it, refs in zip(columns, found, strict=True))
        if not columns or not same or len(relations) != 1:
            return ()
        text = expression(node)
        names = frozenset().union(*(refs[0].key.columns for refs in found))
        # a function call needs no parentheses, anything else does
        return (_Ref(found[0][0].relation, Key(text if isinstance(node, ast.FuncCall) else f"({text})", names)),)

    def targets(self, targets: Any, scope: _Scope) -> Mapping[str, _Refs]:
        """Read a list of output columns and return where each that is a plain column comes from."""
        outputs: dict[str, _Refs] = {}
        for target in targets or ():
            self.columns(target.val, scope)
            if isinstance(target.val, ast.ColumnRef):
                fields = target.val.fields
                if isinstance(fields[-1], ast.A_Star):
                    of = [scope.relation(fields[-2].sval)] if len(fields) > 1 else scope.relations
                    for relation in of:
                        for name in (relation.names or relation.outputs) if relation else ():
                            outputs.setdefault(name, (relation.refs(name) or ()) if relation else ())
                else:
                    outputs.setdefault(target.name or fields[-1].sval, self.resolved(target.val, scope))
            else:
                outputs.setdefault(target.name or f"?{len(outputs)}", ())
        return outputs

    def aggregate(self, node: Any, scope: _Scope) -> None:
        """Take min(column) and max(column) for what they are to a planner: the first row in an order."""
        name = node.funcname[-1].sval
        if name in _FIRST_OR_LAST and node.args and len(node.args) == 1 and not node.over:
            for ref in self.keys(node.args[0], scope):
                ref.relation.order = ref.relation.order or (Order(ref.key),)

    # Order, groups, limits

    def ordering(self, node: Any, scope: _Scope) -> None:
        for window in node.windowClause or ():
            self.sorted((*(window.partitionClause or ()), *(window.orderClause or ())), node, scope)
        for call in (it for it in nodes(node.targetList) if isinstance(it, ast.FuncCall)):
            if isinstance(call.over, ast.WindowDef):
                self.sorted((*(call.over.partitionClause or ()), *(call.over.orderClause or ())), node, scope)
        self.grouped([it for it in node.groupClause or () if not isinstance(it, ast.GroupingSet)], node, scope)
        distinct = node.distinctClause or ()
        if distinct and distinct[0] is None:
            self.grouped([target.val for target in node.targetList or ()], node, scope)
        elif distinct and not node.sortClause:
            self.grouped(distinct, node, scope)
        if node.sortClause:
            self.sorted(node.sortClause, node, scope)

    def sorted(self, items: Sequence[Any], node: Any, scope: _Scope) -> None:
        """Note the longest leading run of a sort that one table can deliver."""
        order: list[Order] = []
        owner: _Relation | None = None
        for item in items:
            value = item.node if isinstance(item, ast.SortBy) else item
            self.columns(value, scope)
            refs = self.keys(_meant(value, node), scope)
            if len(refs) != 1 or owner not in (None, refs[0].relation):
                break
            owner = refs[0].relation
            order.append(_order(item, refs[0].key))
        if owner and order:
            owner.order = tuple(order)

    def grouped(self, items: Sequence[Any], node: Any, scope: _Scope) -> None:
        groups: dict[_Relation, list[Key]] = {}
        for item in items:
            self.columns(item, scope)
            for ref in self.keys(_meant(item, node), scope):
                groups.setdefault(ref.relation, []).append(ref.key)
        for relation, keys in groups.items():
            relation.groups = tuple(dict.fromkeys(keys))

    def limited(self, node: Any) -> None:
        for value, numbers in ((node.limitCount, self.limits), (node.limitOffset, self.offsets)):
            numbers |= {it.number for it in nodes(value) if isinstance(it, ast.ParamRef)}


def _meant(item: Any, node: Any) -> Any:
    """Return the expression that an item of ORDER BY or GROUP BY stands for: a position, an output name, itself."""
    targets = node.targetList or ()
    if isinstance(item, ast.A_Const) and isinstance(item.val, ast.Integer) and 0 < item.val.ival <= len(targets):
        return targets[item.val.ival - 1].val
    if isinstance(item, ast.ColumnRef) and len(item.fields) == 1:
        for target in targets:
            if target.name and target.name == getattr(item.fields[0], "sval", None):
                return target.val
    return item


def _order(item: Any, key: Key) -> Order:
    descending = isinstance(item, ast.SortBy) and item.sortby_dir == enums.SortByDir.SORTBY_DESC
    nulls = item.sortby_nulls if isinstance(item, ast.SortBy) else enums.SortByNulls.SORTBY_NULLS_DEFAULT
    first = nulls == enums.SortByNulls.SORTBY_NULLS_FIRST
    return Order(key, descending, first if nulls != enums.SortByNulls.SORTBY_NULLS_DEFAULT else descending)


def _condenses(node: Any) -> bool:
    if isinstance(node, ast.FuncCall):
        return bool(node.agg_star or node.agg_filter or node.funcname[-1].sval in _AGGREGATES)
    if isinstance(node, ast.SelectStmt):
        return bool(node.groupClause or node.distinctClause)
    return isinstance(node, ast.SubLink)


def _alias(alias: Any, otherwise: str) -> tuple[str]:
    return (alias.aliasname if alias else otherwise,)


def _renamed(outputs: Mapping[str, _Refs], alias: Any) -> Mapping[str, _Refs]:
    """Return outputs under the names that an alias such as ``as x (a, b)`` gives them."""
    if not alias or not alias.colnames:
        return outputs
    names = [name.sval for name in alias.colnames]
    return (
        dict(zip([*names, *list(outputs)[len(names) :]], outputs.values(), strict=True))
        if len(names) <= len(outputs)
        else {}
    )


def _first(relations: Iterable[_Relation], name: str) -> _Refs:
    for relation in relations:
        refs = relation.refs(name)
        if refs:
            return tuple(ref for ref in refs if ref.relation.table)
    return ()


def _returning(node: Any) -> Any:
    return node.returningClause.exprs if node.returningClause else ()


def _set_columns(targets: Any) -> frozenset[str]:
    return frozenset(target.name for target in targets or () if getattr(target, "name", None))


def _argument(node: Any) -> Any:
    if isinstance(node, ast.BoolExpr):
        return node.args[0]
    return getattr(node, "arg", None)


def _is_own(node: Any, ref: _Ref) -> bool:
    """Tell whether a column has the same name in the statement and in the table."""
    return not isinstance(node, ast.ColumnRef) or ref.key.text == quoted(node.fields[-1].sval)


def _start_and_rest(pattern: Any) -> Any:
    """Return both parts of ``$1 || '%'``, or the pattern as it is."""
    if isinstance(pattern, ast.A_Expr) and pattern.name[-1].sval == "||":
        return (pattern.lexpr, pattern.rexpr)
    return pattern


def _like(pattern: str | None) -> Kind:
    """Return what LIKE asks: an unknown pattern may be a prefix or not."""
    if pattern is None:
        return "like"
    return "pattern" if pattern[:1] in ("%", "_") else "prefix"


def _schema_end(name: str) -> int:
    """Return where the schema and its dot end in a qualified name."""
    quoted_schema = re.match(r'"(?:[^"]|"")*"\.', name)
    return quoted_schema.end() if quoted_schema else name.index(".") + 1
