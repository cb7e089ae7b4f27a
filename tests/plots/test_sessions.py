"""Pictures of sessions: the claim, a mark for each thing drawn, and an honest nothing."""

import pytest

from conftest import session_row
from pgrunbooks import plots
from pictures import red, texts, title


def waiter(pid, waits_for, waiting_s):
    return session_row(str(pid), blocked_by=(str(waits_for),), waiting_s=waiting_s, lock_mode="ShareLock")


class TestLockTree:
    def test_says_who_waits_and_stays_short_with_200_waiters(self):
        rows = [session_row("1", state="idle in transaction"), *(waiter(2 + n, 1, 200.0 - n) for n in range(200))]
        axes = plots.lock_tree(rows)
        assert title(axes) == "200 sessions wait behind one session"
        assert len(axes.patches) <= 26
        assert "and 177 more" in texts(axes)
        assert axes.get_xlabel().endswith("seconds")

    def test_marks_each_of_two_roots_in_colour_and_in_words(self):
        axes = plots.lock_tree([session_row("1"), session_row("2"), waiter(3, 1, 9.0), waiter(4, 2, 7.0)])
        assert title(axes) == "2 sessions wait behind 2 sessions"
        assert red(axes) == ["1 checkout", "root: active", "2 checkout", "root: active"]

    def test_writes_out_what_could_fool_a_reader(self):
        axes = plots.lock_tree([session_row("1", application="a\u202eb"), waiter(2, 1, 9.0)])
        assert "1 a\\u202eb" in texts(axes)

    def test_without_waiters_it_says_so(self):
        axes = plots.lock_tree([])
        assert (title(axes), list(axes.patches)) == ("Nobody waits for a lock", [])

    def test_does_not_claim_what_could_not_be_asked(self):
        assert title(plots.lock_tree(None)) == "This could not be asked; the verdict says why"


class TestWaits:
    def rows(self, *events):
        """Return ten samples, each of one session in each of the events."""
        return [
            {"sample": sample, "wait_event_type": kind, "wait_event": event}
            for sample in range(10)
            for kind, event in events
        ]

    def test_claims_the_largest_share_and_draws_a_bar_an_event(self):
        axes = plots.waits(self.rows(("Lock", "relation"), ("Lock", "relation"), (None, None)))
        assert title(axes) == "3 active on average; 67% of that waits for Lock:relation"
        assert [bar.get_width() for bar in axes.patches] == [2.0, 1.0]
        assert [it.get_text() for it in axes.get_yticklabels()] == ["Lock:relation", "on the CPU"]
        assert texts(axes) == ["2 (67%)", "1 (33%)"]

    def test_gathers_what_is_beyond_the_tenth_event(self):
        axes = plots.waits(self.rows(*(("IO", f"Event{number}") for number in range(14))))
        assert [it.get_text() for it in axes.get_yticklabels()][-1] == "4 others"
        assert max(bar.get_width() for bar in axes.patches) < axes.get_xlim()[1]

    def test_says_that_nobody_was_active_or_nobody_could_ask(self):
        assert title(plots.waits([])) == "No session was active in the samples"
        assert title(plots.waits(None)) == "This could not be asked; the verdict says why"


def consumer(application, state, sessions, used):
    return {"role": "app", "application": application, "state": state, "sessions": sessions, "used": used,
            "max_connections": 100, "reserved": 3}  # fmt: skip


class TestConnectionSlots:
    def test_claims_the_used_share_and_draws_the_limit(self):
        axes = plots.connection_slots([consumer("pool", "idle", 95, 96), consumer("etl", "active", 1, 96)])
        assert axes.get_title(loc="left") == "96 of 97 slots are taken (99%)"
        assert "limit 97" in [it.get_text() for it in axes.texts]

    def test_counts_the_consumers_beyond_the_tenth_in_one_bar(self):
        axes = plots.connection_slots([consumer(f"a{number}", "idle", 1, 20) for number in range(20)])
        assert [it.get_text() for it in axes.get_yticklabels()][-1] == "10 others"

    @pytest.mark.parametrize(("rows", "claim"), [([], "No session but this one"), (None, "This could not be asked")])
    def test_without_rows_it_says_why(self, rows, claim):
        assert plots.connection_slots(rows).get_title(loc="left").startswith(claim)
