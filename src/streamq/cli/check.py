"""`streamq check`: is the queue sound, and what is to be done."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.safe import plain
from streamq.cli.screen import say
from streamq.core.checkup import Checkup, Finding
from streamq.core.jsonable import jsonable
from streamq.errors import StoreError


def check(
    *,
    repair: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Mend what is safe, and say what was done.")
    ] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object.")] = False,
    place: Place = HERE,
) -> None:
    """Check the server, the collection and every task; exit code 1 if it cannot be used as it is."""
    with opened(place) as app:
        checkup = app.blocking.desk.check(repair=repair)
    if json:
        _print_json(checkup)
    else:
        _print(checkup)
    if not checkup.valid:
        raise StoreError("the collection cannot be used as it is: see above")


def _print_json(checkup: Checkup) -> None:
    facts = {name: getattr(checkup, name) for name in ("server_version", "replica_set", "oplog_hours", "clock_ahead_s")}
    findings = [{name: jsonable_field(one, name) for name in one.__struct_fields__} for one in checkup.findings]
    say(json.dumps({"valid": checkup.valid, **facts, "findings": findings}))


def jsonable_field(finding: Finding, name: str) -> object:
    """Return one field of a finding as what JSON holds."""
    value = getattr(finding, name)
    return [jsonable(one) for one in value] if isinstance(value, tuple) else value


def _print(checkup: Checkup) -> None:
    version, hours = checkup.server_version or "?", checkup.oplog_hours
    reach = "" if hours is None else f", oplog {hours:.1f} h"
    say(plain(f"MongoDB {version}, replica set {checkup.replica_set or 'none'}{reach}"))
    for one in checkup.findings:
        _print_finding(one)
    if not checkup.findings:
        say("nothing found")


def _print_finding(finding: Finding) -> None:
    say(plain(f"{finding.severity}: expected: {finding.what}; found: {finding.said}"))
    if finding.ids:
        more = ", …" if finding.count > len(finding.ids) else ""
        say(plain(f"    {', '.join(map(str, finding.ids))}{more}"))
    say(plain(f"    repaired: {finding.repaired}" if finding.repaired else f"    {finding.advice}"))
