# ruff: noqa: E501 - one statement a line reads best
"""A mix of an online business: 28 weighted statements over six tables, with the clauses that index advice lives on.

Equality, ranges, sort and limit, soft deletes, flags, LIKE prefixes, JSONB, lower(email), joins and some reports. Each
statement draws its values by a hash of the call's number: two runs are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

SCHEMA = """
create schema mix;
set search_path to mix;
create table accounts (
    id bigint primary key, email text not null, name text not null, country text not null, plan text not null,
    created_at timestamptz not null, deleted_at timestamptz, settings jsonb not null);
create table projects (
    id bigint primary key, account_id bigint not null, slug text not null, title text not null,
    is_archived boolean not null, created_at timestamptz not null);
create table tasks (
    id bigint primary key, project_id bigint not null, assignee_id bigint, status text not null,
    priority smallint not null, due_on date, title text not null, created_at timestamptz not null,
    finished_at timestamptz, deleted_at timestamptz);
create table comments (
    id bigint primary key, task_id bigint not null, author_id bigint not null, body text not null,
    created_at timestamptz not null);
create table invoices (
    id bigint primary key, account_id bigint not null, number text not null, amount numeric(12, 2) not null,
    issued_at timestamptz not null, paid_at timestamptz, currency text not null);
create table deliveries (
    id bigint primary key, account_id bigint not null, endpoint text not null, payload jsonb not null,
    attempts smallint not null, is_done boolean not null, next_try_at timestamptz, created_at timestamptz not null);
"""

# One part of the rows each; their sum is 25 parts.
_PARTS = {"accounts": 1, "projects": 2, "tasks": 8, "comments": 8, "invoices": 2, "deliveries": 4}
_PICK = "(hashint8extended(i, {salt}) & 9007199254740991) % {choices}"


def fill(rows: int) -> list[str]:
    """Return the statements that fill the tables with ``rows`` rows in all, and gather statistics."""
    n = {table: rows * part // 25 for table, part in _PARTS.items()}

    def pick(salt: int, choices: int) -> str:
        return f"({_PICK.format(salt=salt, choices=choices)})"

    def moment(table: str) -> str:
        return f"timestamptz '2026-06-01' - interval '1000 days' * (1 - i / {n[table]}.0)"

    series = {table: f"from generate_series(1, {count}) as i" for table, count in n.items()}
    return [
        f"""insert into mix.accounts select i, 'User' || i || '@' || (array['example.com', 'mail.org'])[1 + {pick(1, 2)}],
            'Name ' || {pick(2, 5000)}, (array['DE','DE','DE','FR','AT','PL','JP','US'])[1 + {pick(3, 8)}],
            (array['free','free','free','free','pro','team'])[1 + {pick(4, 6)}], {moment("accounts")},
            case when {pick(5, 20)} = 0 then timestamptz '2026-05-01' end,
            jsonb_build_object('theme', {pick(6, 3)}, 'beta', {pick(7, 50)} = 0) {series["accounts"]}""",
        f"""insert into mix.projects select i, 1 + {pick(8, n["accounts"])}, 'project-' || md5(i::text),
            'Project ' || {pick(9, 900)}, {pick(10, 10)} > 0, {moment("projects")} {series["projects"]}""",
        f"""insert into mix.tasks select i, 1 + {pick(11, n["projects"])},
            case when {pick(12, 5)} > 0 then 1 + {pick(13, n["accounts"])} end,
            case when {pick(14, 100)} < 93 then 'done' when {pick(14, 100)} < 98 then 'open' else 'blocked' end,
            {pick(15, 5)}, date '2026-06-01' + {pick(16, 120)}::int - 90, 'Task ' || md5(i::text), {moment("tasks")},
            case when {pick(14, 100)} < 93 then {moment("tasks")} + interval '3 days' end,
            case when {pick(17, 33)} = 0 then timestamptz '2026-05-20' end {series["tasks"]}""",
        f"""insert into mix.comments select i, 1 + {pick(18, n["tasks"])}, 1 + {pick(19, n["accounts"])},
            repeat(md5(i::text), 3), {moment("comments")} {series["comments"]}""",
        f"""insert into mix.invoices select i, 1 + {pick(20, n["accounts"])}, 'INV-' || lpad(i::text, 9, '0'),
            {pick(21, 90000)} / 100.0, {moment("invoices")},
            case when {pick(22, 50)} > 0 then {moment("invoices")} + interval '9 days' end,
            (array['EUR','EUR','EUR','USD','JPY'])[1 + {pick(23, 5)}] {series["invoices"]}""",
        f"""insert into mix.deliveries select i, 1 + {pick(24, n["accounts"])}, '/hooks/' || {pick(25, 40)},
            jsonb_build_object('kind', 'k' || {pick(26, 400)}, 'ref', i), {pick(27, 4)}, {pick(28, 200)} > 0,
            case when {pick(28, 200)} = 0 then {moment("deliveries")} end, {moment("deliveries")}
            {series["deliveries"]}""",
        "vacuum (analyze) mix.accounts, mix.projects, mix.tasks, mix.comments, mix.invoices, mix.deliveries",
    ]


@dataclass(frozen=True)
class Asked:
    """One statement of the mix: of the calls in an hour ``weight`` are this one; ``{...}`` are drawn values."""

    weight: int
    text: str
    draw: Callable[[Random, int], dict[str, object]]


def _of(table: str, name: str = "id") -> Callable[[Random, int], dict[str, object]]:
    return lambda rng, rows: {name: rng.randint(1, max(1, rows * _PARTS[table] // 25))}


def _nothing(rng: Random, rows: int) -> dict[str, object]:
    return {}


def _task(rng: Random, rows: int) -> dict[str, object]:
    return {**_of("projects")(rng, rows), "n": rng.choice((10, 20, 50))}


def _day(rng: Random, rows: int) -> dict[str, object]:
    day = rng.randint(0, 700)
    return {"from_day": day, "to_day": day - 2}


_SINCE = "timestamptz '2026-06-01' - interval"
MIX = (
    Asked(900, "select id, name, plan from mix.accounts where lower(email) = lower('User{id}@example.com') and deleted_at is null", _of("accounts")),
    Asked(300, "select * from mix.projects where account_id = {id} and not is_archived order by created_at desc", _of("accounts")),
    Asked(250, "select * from mix.projects where account_id = {id} order by created_at desc limit 20", _of("accounts")),
    Asked(600, "select id, title, status, due_on from mix.tasks where project_id = {id} and deleted_at is null order by priority, due_on limit {n}", _task),
    Asked(400, "select id, title, due_on from mix.tasks where assignee_id = {id} and status = 'open' and deleted_at is null order by due_on", _of("accounts")),
    Asked(120, "select count(*) from mix.tasks where project_id = {id} and status <> 'done'", _of("projects")),
    Asked(20, "select id, assignee_id from mix.tasks where status = 'blocked' order by created_at limit 50", _nothing),
    Asked(10, "select count(*) from mix.tasks where finished_at is null and due_on < date '2026-03-10'", _nothing),
    Asked(500, "select id, author_id, body, created_at from mix.comments where task_id = {id} order by created_at", _of("tasks")),
    Asked(90, "select c.id, c.created_at, t.title from mix.comments c join mix.tasks t on t.id = c.task_id where c.author_id = {id} order by c.created_at desc limit 10", _of("accounts")),
    Asked(80, "select p.slug, count(*) from mix.projects p join mix.tasks t on t.project_id = p.id where p.account_id = {id} and t.deleted_at is null group by p.slug", _of("accounts")),
    Asked(250, "select id from mix.projects where slug = 'project-' || md5('{id}')", _of("projects")),
    Asked(60, "select id, slug from mix.projects where slug like 'project-{prefix}%' limit 10", lambda rng, rows: {"prefix": f"{rng.getrandbits(20):05x}"}),
    Asked(40, "select id, name from mix.accounts where email like 'User{id}%' limit 10", lambda rng, rows: {"id": rng.randint(1000, 9999)}),
    Asked(150, "select id, number, amount, paid_at from mix.invoices where account_id = {id} order by issued_at desc limit 12", _of("accounts")),
    Asked(200, "select * from mix.invoices where number = 'INV-' || lpad('{id}', 9, '0')", _of("invoices")),
    Asked(15, "select id, account_id, amount from mix.invoices where paid_at is null order by issued_at limit 100", _nothing),
    Asked(4, "select currency, sum(amount) from mix.invoices where issued_at >= " + _SINCE + " '{from_day} days' and issued_at < " + _SINCE + " '{to_day} days' group by currency", _day),
    Asked(300, "select id, endpoint, payload from mix.deliveries where not is_done and next_try_at <= timestamptz '2026-06-01' order by next_try_at limit 50", _nothing),
    Asked(25, "select id, created_at from mix.deliveries where payload @> '{{\"kind\": \"k{kind}\"}}' order by created_at desc limit 20", lambda rng, rows: {"kind": rng.randint(0, 399)}),
    Asked(70, "select count(*), max(created_at) from mix.deliveries where account_id = {id}", _of("accounts")),
    Asked(3, "select endpoint, count(*) from mix.deliveries where created_at >= " + _SINCE + " '{from_day} days' and created_at < " + _SINCE + " '{to_day} days' group by endpoint", _day),
    Asked(5, "select count(*) from mix.comments where created_at >= " + _SINCE + " '{from_day} days' and created_at < " + _SINCE + " '{to_day} days'", _day),
    Asked(8, "select country, count(*) from mix.accounts where settings @> '{{\"beta\": true}}' group by country", _nothing),
    Asked(30, "select a.name, i.amount from mix.invoices i join mix.accounts a on a.id = i.account_id where a.country = 'JP' and i.issued_at >= " + _SINCE + " '{n} days' order by i.issued_at desc limit 30", lambda rng, rows: {"n": rng.randint(1, 9)}),
    Asked(60, "select distinct on (project_id) project_id, title from mix.tasks where assignee_id = {id} order by project_id, created_at desc", _of("accounts")),
    Asked(180, "update mix.tasks set status = 'done', finished_at = timestamptz '2026-06-01' where project_id = {id} and status = 'blocked' and priority = 4", _of("projects")),
    Asked(50, "delete from mix.deliveries where account_id = {id} and is_done and created_at < timestamptz '2023-09-10'", _of("accounts")),
)  # fmt: skip


def drawn(asked: Asked, number: int, rows: int) -> str:
    """Return the statement with the values of its call of that number."""
    return asked.text.format(**asked.draw(Random(f"{asked.text}/{number}"), rows))
