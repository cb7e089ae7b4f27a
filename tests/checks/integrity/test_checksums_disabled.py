import pytest

from pgrunbooks.checks.integrity.checksums_disabled import judge


def test_the_drill_is_found_and_healed(prove):
    prove("checksums-disabled")


@pytest.mark.parametrize(("value", "severity"), [("on", []), ("off", ["info"]), (None, []), ("inprogress-on", [])])
def test_the_setting_decides(value, severity, context):
    assert [it.severity for it in judge([{"data_checksums": value}], {}, context)] == severity


def test_no_answer_is_well(context):
    assert list(judge([], {}, context)) == []
