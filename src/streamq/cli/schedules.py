"""`streamq schedules`: list the schedules of recurring tasks; disable or enable one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from streamq.cli.place import HERE, Place, opened
from streamq.cli.screen import cell, console, say, table
from streamq.core.jsonable import jsonable
from streamq.core.schedule import ScheduleInfo
from streamq.errors import UsageError


def schedules(
    *,
    disable: Annotated[str | None, Parameter(help="Fire no more slots of this one, until it is enabled.")] = None,
    enable: Annotated[str | None, Parameter(help="Fire the slots of this one again, from now on.")] = None,
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="One JSON object a schedule and line.")
    ] = False,
    place: Place = HERE,
) -> None:
    """List the schedules of recurring tasks, as they stand after disabling or enabling one."""
    if disable is not None and disable == enable:
        raise UsageError("--disable and --enable name the same schedule")
    with opened(place) as app:
        if disable is not None:
            app.blocking.disable_schedule(disable)
        if enable is not None:
            app.blocking.enable_schedule(enable)
        found = app.blocking.schedules()
    if json:
        _print_lines(found)
    elif found:
        _print_table(found)
    else:
        say("no schedules")


def _print_lines(found: list[ScheduleInfo]) -> None:
    for one in found:
        row = {name: jsonable(value) for name, value in msgspec.structs.asdict(one).items()}
        say(json.dumps(row, allow_nan=False))


def _print_table(found: list[ScheduleInfo]) -> None:
    made = table("name", "queue", "spec", "next (UTC)", "last slot (UTC)", "note", folding=("spec", "note"))
    for one in found:
        made.add_row(
            cell(one.name),
            cell(one.queue),
            cell(one.spec),
            cell(_instant(one.next_at) if one.enabled else "disabled", "" if one.enabled else "yellow"),
            cell(_instant(one.last_slot_at)),
            cell(_note(one)),
        )
    console().print(made)


def _instant(value: Any) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def _note(one: ScheduleInfo) -> str:
    said = [] if one.missed == "latest" else [f"missed: {one.missed}"]
    if not one.overlap:
        said.append("no overlap" + (f", {one.skipped} skipped" if one.skipped else ""))
    return "; ".join(said)
