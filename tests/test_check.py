"""The house law: what every check must have, and how limits grade."""

import importlib
import json
from pathlib import Path

import pytest

from pgrunbooks.check import catalogue, grade, registry
from pgrunbooks.drills import drills

CHECKS = sorted(registry().values(), key=lambda check: check.code)
TESTS = Path(__file__).parent


def module_of(check):
    return importlib.import_module(check.judge.__module__)


def columns(sandbox, sql):
    with sandbox.connect() as connection:
        return [(column.name, column.type_code) for column in connection.execute(sql).description or ()]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
class TestEveryCheck:
    def test_is_named_after_its_fault_and_lies_in_its_area(self, check):
        area, name = module_of(check).__name__.split(".")[-2:]
        assert (area, name) == (check.rule.area, check.code.replace("-", "_"))

    def test_tells_what_the_fault_is_and_how_it_is_decided(self, check):
        assert len(module_of(check).__doc__) > 200

    def test_has_a_drill(self, check):
        assert check.code in drills()

    def test_has_a_test_that_proves_it(self, check):
        assert (TESTS / "checks" / check.rule.area / f"test_{check.code.replace('-', '_')}.py").is_file()

    def test_returns_the_same_columns_in_every_variant(self, check, newest, oldest):
        if check.asks_pooler:
            pytest.skip("the query is PgBouncer's")
        first, last = min(check.sql), max(check.sql)  # the first may name what a newer server has no more
        servers = {it: oldest if it == first < last else newest for it in check.sql}
        names = {it: [name for name, _ in columns(servers[it], sql)] for it, sql in check.sql.items()}
        assert len({tuple(it) for it in names.values()}) == 1, names

    def test_only_reads(self, check):
        for sql in check.sql.values():
            words = sql.lower().split()
            assert words[0] in ("select", "with", "show")
            assert not {"insert", "update", "delete", "create", "alter", "drop", "reset"} & set(words)


def test_the_package_ships_the_list_of_checks():
    assert len(catalogue()) > 100
    assert set(registry()) <= set(catalogue())


def test_every_default_limit_is_understood():
    for rule in catalogue().values():
        assert set(rule.limits()) == set(rule.defaults), rule.code
    assert (
        json.dumps(catalogue()["blocking-lock"].limits())
        == '{"warning": 5.0, "critical": 30.0, "critical_waiters": 5.0}'
    )


@pytest.mark.parametrize(
    ("value", "severity"),
    [(None, None), (0.79, None), (0.8, "warning"), (0.949, "warning"), (0.95, "critical"), (2, "critical")],
)
def test_the_worst_limit_that_was_reached_wins(value, severity):
    assert grade(value, {"warning": 0.8, "critical": 0.95}) == severity


def test_a_suffix_picks_the_limits_of_another_quantity():
    assert grade(5, {"warning": 1, "warning_bytes": 10}, "_bytes") is None
    assert grade(10, {"warning": 1, "warning_bytes": 10}, "_bytes") == "warning"
