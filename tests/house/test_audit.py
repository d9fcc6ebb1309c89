"""What `make audit` makes of a report."""

from __future__ import annotations

from tests.house.audit import told

SOUND = {"name": "trio", "version": "1", "vulns": []}
HURT = {"name": "trio", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


def test_known_vulnerability_fails_and_says_where_it_is_mended() -> None:
    assert told({"dependencies": [SOUND, HURT]}) == (1, ["trio 1: PYSEC-1, mended in 2"])


def test_audit_that_reached_no_database_says_so_and_does_not_fail() -> None:
    for packages in ([UNKNOWN], []):
        code, (line,) = told({"dependencies": packages})
        assert (code, "NOTHING WAS AUDITED" in line) == (0, True)


def test_sound_packages_are_counted_and_unknown_ones_named() -> None:
    assert told({"dependencies": [SOUND, UNKNOWN]}) == (
        0,
        ["make audit: 1 packages without a known vulnerability; not known there: ours"],
    )
