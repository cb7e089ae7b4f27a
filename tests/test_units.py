import pytest

from pgrunbooks import units


@pytest.mark.parametrize(
    ("text", "kind", "number"),
    [
        ("500ms", "duration", 0.5), ("10min", "duration", 600), ("1h", "duration", 3600), ("30d", "duration", 2592000),
        ("1.5 s", "duration", 1.5), ("64MB", "bytes", 64 * 1024**2), ("500GB", "bytes", 500 * 1024**3),
        ("8kB", "bytes", 8192), ("80%", "share", 0.8), (5, "count", 5), ("10000000", "count", 1e7),
        (0, "duration", 0), ("0", "bytes", 0),
    ],
)  # fmt: skip
def test_what_postgresql_writes_is_understood(text, kind, number):
    assert units.parse(text, kind) == pytest.approx(number)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("10", "duration"), ("10 minutes", "duration"), ("5MB", "duration"), ("5mb", "bytes"), ("0.8", "share"),
        (True, "count"), (None, "count"), (-1, "count"), ("", "duration"), ([1], "bytes"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text, kind):
    with pytest.raises(ValueError, match="such as"):
        units.parse(text, kind)


@pytest.mark.parametrize(
    ("text", "kind"), [("5min", "duration"), ("1GB", "bytes"), ("40%", "share"), ("32", "count"), ("0", "count")]
)
def test_a_default_tells_its_kind(text, kind):
    assert units.kind_of(text) == kind
