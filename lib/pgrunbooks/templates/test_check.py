"""my.table-without-key on a real PostgreSQL: silent while all is well, found inside the fault, silent once healed."""

CODE = "my.table-without-key"


def test_the_fault_is_found_and_healed(sandbox, findings):
    assert findings(CODE) == []
    with sandbox.connect() as superuser:
        superuser.execute("create table shop.notes as select 'call back' as note")
        try:
            superuser.execute("analyze shop.notes")
            assert findings(CODE) == [("table", "shop.notes", "warning")]
        finally:
            superuser.execute("drop table shop.notes")
    assert findings(CODE) == []
