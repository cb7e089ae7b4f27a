"""A past of a database of one's own, a snapshot a day."""

import datetime

import pytest

from pgrunbooks import history

MONDAY = datetime.datetime(2026, 11, 2, 6, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def remember(own, folder):
    """Return what files a snapshot of now under a day, and returns all there are."""

    def remember(days):
        history.record_snapshot(own[1], at=MONDAY + days * DAY, folder=folder)
        return history.snapshots(own[1], folder=folder)[0]

    return remember
