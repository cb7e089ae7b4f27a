"""What tests read off a picture."""

import datetime

from pgrunbooks.plots._style import ROOT


def title(axes):
    return axes.get_title(loc="left")


def texts(axes):
    return [it.get_text() for it in axes.texts if it.get_text()]


def red(axes):
    return [it.get_text() for it in axes.texts if it.get_color() == ROOT]


def sizes(*gigabytes):
    start = datetime.datetime(2026, 9, 1, tzinfo=datetime.UTC)
    return [(start + datetime.timedelta(days=day), int(size * 1024**3)) for day, size in enumerate(gigabytes)]
