"""Indexes that look alike and are not, on real servers: where dropping the wrong one would hurt."""

import pytest

from conftest import diagnose
from pgrunbooks.drills import Actors
from pgrunbooks.sandbox import temporary_standby, wait_until

CODES = ("duplicate-index", "redundant-index", "unused-index")
LIMITS = {"unused-index": {"min_age": "0", "min_bytes": "0"}, "missing-fk-index": {"min_rows": "0"}}


def found(server, *codes):
    """Return the names that these checks find in the schema of the test."""
    findings = diagnose(server, *codes, thresholds=LIMITS).findings
    return {(it.code, it.name.removeprefix("lab.")) for it in findings if it.name.startswith("lab.")}


class TestDuplicates:
    def test_one_copy_of_a_pair_that_differs_in_one_thing_is_never_named(self, server, build):
        build(
            "create table t (a text, b text, c integer, d tsvector)",
            "create index t_nulls_1 on t (a nulls first)",
            "create index t_nulls_2 on t (a)",
            'create index t_collate on t (a collate "C")',
            "create index t_gist_1 on t using gist (d)",
            "create index t_gist_2 on t using gist (d tsvector_ops (siglen = 32))",
            "create index t_gin on t using gin (d)",
            "create index t_spgist on t using spgist (b)",
            "create index t_hash on t using hash (b)",
            "create index t_where_1 on t (c) where c > 1",
            "create index t_where_2 on t (c) where c > 2",
            "create index t_expression_1 on t ((c + 1))",
            "create index t_expression_2 on t ((c + 2))",
            "create index t_expression_3 on t ((c + 1), (c + 2))",
            "create index t_expression_4 on t ((c + 2), (c + 1))",
            "create index t_include_1 on t (c, a) include (b)",
            "create index t_include_2 on t (c, a, b)",
            "create index t_brin_1 on t using brin (c int4_minmax_ops)",
            "create index t_brin_2 on t using brin (c int4_bloom_ops)",
        )
        assert found(server, "duplicate-index") == set()

    def test_a_plain_index_is_a_copy_of_one_that_backs_an_exclusion_constraint(self, server, build):
        build(
            "create table t (a int4range, exclude using gist (a with &&))",
            "create index t_a on t using gist (a)",
        )
        assert found(server, "duplicate-index") == {("duplicate-index", "t_a")}

    def test_storage_does_not_make_another_index(self, server, build):
        build(
            "create table t (a integer)",
            "create index t_1 on t (a)",
            "create index t_2 on t (a) with (fillfactor = 70)",
        )
        assert found(server, "duplicate-index") == {("duplicate-index", "t_2")}

    def test_the_clustered_and_the_replica_identity_one_stay(self, server, build):
        build(
            "create table c (a integer)",
            "create index c_old on c (a)",
            "create index c_clustered on c (a)",
            "cluster c using c_clustered",
            "create table r (a integer not null)",
            "create unique index r_old on r (a)",
            "create unique index r_identity on r (a)",
            "alter table r replica identity using index r_identity",
        )
        assert found(server, "duplicate-index") == {("duplicate-index", "c_old"), ("duplicate-index", "r_old")}

    def test_a_deferrable_constraint_and_a_unique_index_both_stay(self, server, build):
        build(
            "create table t (a integer, constraint t_late unique (a) deferrable initially deferred)",
            "create unique index t_now on t (a)",
            "create index t_plain on t (a)",
        )
        assert found(server, "duplicate-index") == {("duplicate-index", "t_plain")}

    def test_nulls_not_distinct_takes_the_place_of_a_plain_copy_and_of_nothing_else(self, server, build):
        build(
            "create table t (a integer)",
            "create unique index t_strict on t (a) nulls not distinct",
            "create unique index t_loose on t (a)",
        )
        assert found(server, "duplicate-index") == set()

    def test_the_index_of_a_partition_is_no_copy_of_its_sibling_or_its_parent_s(self, server, build):
        build(
            "create table e (a integer, b integer) partition by range (a)",
            "create table e1 partition of e for values from (1) to (2)",
            "create table e2 partition of e for values from (2) to (3)",
            "create index e_b on e (b)",
            "create index e1_own on e1 (b, a)",
        )
        assert found(server, *CODES[:2]) == set()


class TestRedundance:
    def test_what_serves_another_purpose_is_not_covered(self, server, build):
        build(
            "create table t (a integer not null, b integer, c integer, d integer not null, e integer not null, f int4range)",
            "create index t_wide on t (a, b, c)",
            "create index t_second on t (b, c)",
            "create index t_swapped on t (b, a)",
            "create index t_descending on t (a, b desc)",
            "create index t_brin on t using brin (a)",
            "create unique index t_identity on t (d)",
            "create index t_identity_wide on t (d, b)",
            "alter table t replica identity using index t_identity",
            "create index t_clustered on t (e)",
            "create index t_clustered_wide on t (e, b)",
            "cluster t using t_clustered",
            "create index t_range on t using gist (f)",
            "create index t_range_wide on t using gist (f, f)",
        )
        assert found(server, *CODES[:2]) == set()

    def test_a_whole_index_covers_no_partial_one_and_the_other_way_round(self, server, build):
        build(
            "create table t (a integer, b integer)",
            "create index t_part on t (a) where b > 0",
            "create index t_whole on t (a, b)",
            "create index t_other on t (a, b) where b > 1",
        )
        assert found(server, *CODES[:2]) == set()

    def test_a_partitioned_prefix_is_one_finding_and_a_child_s_is_none(self, server, build):
        build(
            "create table e (a integer, b integer) partition by range (a)",
            "create table e1 partition of e for values from (1) to (2)",
            "create index e_narrow on e (b)",
            "create index e_wide on e (b, a)",
        )
        assert found(server, *CODES[:2]) == {("redundant-index", "e_narrow")}

    def test_the_index_that_a_foreign_key_references_stays(self, server, build):
        build(
            "create table p (a integer, b integer, c integer)",
            "create unique index p_a on p (a)",
            "create index p_wide on p (a, b)",
            "create table f (a integer references p (a))",
        )
        assert found(server, *CODES[:2]) == set()

    def test_the_index_that_supports_a_foreign_key_goes_only_to_one_that_does_too(self, server, build):
        build(
            "create table p (a integer primary key)",
            "create table f (a integer references p, b integer)",
            "create index f_a on f (a)",
            "create index f_part on f (a, b) where b > 0",
        )
        assert found(server, *CODES[:2]) == set()
        build("create index f_wide on f (a, b)")
        assert found(server, "redundant-index", "missing-fk-index") == {("redundant-index", "f_a")}
        build("drop index f_a")
        assert found(server, "missing-fk-index") == set()


class TestUnused:
    @pytest.fixture
    def unused(self, server):
        return lambda: {name for _, name in found(server, "unused-index")}

    def test_what_guards_or_supports_is_kept_and_the_rest_named(self, unused, build):
        build(
            "create table p (a integer primary key, b integer unique)",
            "create table t (id integer primary key, a integer references p on delete cascade, b integer, c integer not null,"
            " r int4range, exclude using gist (r with &&))",
            "create unique index t_identity on t (c)",
            "alter table t replica identity using index t_identity",
            "create unique index t_unique_part on t (b) where b > 0",
            "create index t_a on t (a)",
            "create index t_expression on t ((b + 1))",
            "create index t_b on t (b)",
            "create index t_b_part on t (b) where a > 0",
            "create index t_hash on t using hash (b)",
        )
        assert unused() == {"t_b", "t_b_part", "t_hash"}

    def test_of_two_that_support_one_foreign_key_one_stays(self, unused, build):
        build(
            "create table p (a integer, b integer, primary key (a, b))",
            "create table t (a integer, b integer, c integer, foreign key (a, b) references p)",
            "create index t_1 on t (b, a)",
            "create index t_2 on t (a, b, c)",
        )
        assert len(unused()) == 1

    def test_a_scan_of_one_partition_keeps_the_family(self, server, build):
        build(
            "create table e (a integer, b integer) partition by range (a)",
            "create table e1 partition of e for values from (1) to (2)",
            "create table e2 partition of e for values from (2) to (3)",
            "create index e_b on e (b)",
        )
        thresholds = {"unused-index": {"min_age": "10s", "min_bytes": "0"}}

        def unused():
            return {it.name for it in diagnose(server, "unused-index", thresholds=thresholds).findings}

        with server.connect() as watcher:  # from 16 on, only a scan older than min_age is none
            wait_until(watcher, "select now() - stats_reset > interval '10 s' from pg_stat_bgwriter")
        assert "lab.e_b" in unused()
        build(
            "set enable_seqscan to off", "select from e2 where b = 1", "select pg_stat_force_next_flush()", "select 1"
        )
        assert "lab.e_b" not in unused()

    def test_an_invalid_index_is_another_check_s(self, server, unused, build):
        build("create table t (a integer)", "create index t_a on t (a)")
        build("update pg_index set indisvalid = false where indexrelid = 'lab.t_a'::regclass")
        assert unused() == set()
        assert found(server, "invalid-index") == {("invalid-index", "t_a")}


class TestForeignKeys:
    def test_a_key_to_its_own_table_and_one_of_a_partition_are_judged_like_others(self, server, build):
        build(
            "create table t (id integer primary key, parent integer references t)",
            "create table e (a integer) partition by range (a)",
            "create table e1 partition of e for values from (1) to (2)",
            "alter table e1 add constraint e1_own foreign key (a) references t",
        )
        assert found(server, "missing-fk-index") == {
            ("missing-fk-index", "t t_parent_fkey"),
            ("missing-fk-index", "e1 e1_own"),
        }
        build("create index on t (parent)", "create index on e (a)")
        assert found(server, "missing-fk-index") == set()

    def test_the_referencing_table_s_own_primary_key_serves(self, server, build):
        build(
            "create table p (id integer primary key)",
            "create table t (p_id integer references p, at date, primary key (p_id, at))",
            "create table u (at date, p_id integer references p, primary key (at, p_id))",
        )
        assert found(server, "missing-fk-index") == {("missing-fk-index", "u u_p_id_fkey")}

    def test_a_parent_that_loses_rows_makes_it_grave(self, server, build):
        build(
            "create table p (id integer primary key)",
            "create table t (p_id integer references p)",
            "insert into p values (1), (2)",
            "insert into t values (2)",
        )

        def severity():
            (finding,) = [
                it for it in diagnose(server, "missing-fk-index", thresholds=LIMITS).findings if "lab.t" in it.name
            ]
            return finding.severity

        assert severity() == "info"
        build("delete from p where id = 1", "select pg_stat_force_next_flush()")
        assert severity() == "warning"


class TestBuildsInProgress:
    def test_a_build_that_waits_in_any_phase_is_no_wreck(self, server, build):
        build("create table t (a integer)", "insert into t values (1)", "create index t_a on t (a)")
        with Actors(server) as stage:
            stage.enter("worker", "begin", "update lab.t set a = 2")
            stage.block("one", "create index concurrently t_b on lab.t (a)")
            assert found(server, "invalid-index") == set()
        with Actors(server) as stage:
            stage.enter("reader", "begin isolation level repeatable read", "select from lab.t")
            stage.block("one", "drop index concurrently lab.t_a")
            assert found(server, "invalid-index") == set()


def test_an_index_that_a_standby_alone_scans_is_used(oldest, tmp_path, monkeypatch):
    limits = {"unused-index": {"min_age": "0", "min_bytes": "0"}}
    with oldest.connect() as session, temporary_standby(oldest) as standby:
        path = tmp_path / "targets.yml"
        path.write_text(f"targets:\n  replica: {{dsn: '{standby.url()}'}}\n")
        monkeypatch.setenv("PGRUNBOOKS_TARGETS", str(path))
        session.execute("create schema lab; create table lab.t (a integer, b integer)")
        try:
            session.execute("create index t_a on lab.t (a); create index t_b on lab.t (b)")

            def unused():
                verdict = diagnose(oldest, "unused-index", thresholds=limits, standbys=("replica",))
                assert verdict.checks[0].outcome == "found", verdict.checks[0].reason
                return {it.name for it in verdict.findings if it.name.startswith("lab.")}

            with standby.connect() as reader:
                wait_until(reader, "select to_regclass('lab.t_b') is not null")
                assert unused() == {"lab.t_a", "lab.t_b"}
                reader.execute("set enable_seqscan to off")
                reader.execute("select from lab.t where a = 1")
                reader.execute("select pg_stat_force_next_flush()")
                reader.execute("select 1")
                assert unused() == {"lab.t_b"}
        finally:
            session.execute("drop schema lab cascade")
