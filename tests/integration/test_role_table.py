"""Each public call and command by a user of each role alone: what it may is done, the rest changes nothing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio

from streamq import AccessRefused, BlockingTask, Task
from streamq.asyncio import AsyncTask, Door
from streamq.cli import commands, main
from streamq.core.roles import KINDS, RoleKind
from tests.guarded import Guarded
from tests.integration.role_scene import Scene
from tests.integration.role_table import (
    CALLS,
    COMMANDS,
    DESKS,
    DOORS,
    NO_SERVER,
    OF_OTHERS,
    OTHER_COMMANDS,
    QUEUES,
    READ,
    TASKS,
    WRITE,
    Call,
    public_calls,
)


@pytest.fixture
def scene(guard: Guarded, place: str, kind: RoleKind) -> Iterator[Scene]:
    made = Scene(guard, place, kind)
    yield made
    made.close()


def test_each_public_call_is_in_the_table() -> None:
    named = {f"{one.__name__}.{call.name.split()[0]}" for call in CALLS for one in call.classes}
    assert named | NO_SERVER | OF_OTHERS == public_calls()
    assert {one.__name__ for one in commands.COMMANDS} == {one.name for one in COMMANDS} | OTHER_COMMANDS


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_role_allows_its_calls_and_no_other(scene: Scene, kind: RoleKind, door: str) -> None:
    async def with_trio() -> list[str]:
        async with scene.app:
            return await wrongs(door, kind, scene)

    assert (trio.run(with_trio) if door == "trio" else asyncio.run(wrongs(door, kind, scene))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_role_allows_its_commands_and_no_other(
    scene: Scene, kind: RoleKind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMQ_URI", scene.uri)
    for command in COMMANDS:
        scene.begin(command.given)
        before = scene.stored()
        words = (command.name, *command.arguments(scene))
        code = main([*words, "--database", scene.database])
        out, err = capsys.readouterr()
        said = (words, out, err)
        if kind in command.may:
            assert code == 0, said
            assert out, said
            assert (scene.stored() != before) is (command.may != READ), said
        else:
            assert code == 1, said
            assert "not authorized" in err, said
            assert scene.stored() == before, said


async def wrongs(door: str, kind: RoleKind, scene: Scene) -> list[str]:
    """Make each call of a door; return those that did not end as the table says, and how."""
    found: list[str] = []
    for call in CALLS:
        if not set(call.classes) & set(DOORS[door]):
            continue
        scene.begin(call.given)
        taken = await taken_for(call, door, kind, scene)
        if taken is None:  # with trio there is no task without a claim, which is refused
            continue
        before = scene.stored()
        became = await outcome(call, taken, scene)
        wrong = wrong_of(kind in call.may, call.looks, became, before, scene.stored())
        if wrong:
            found.append(f"{call.name} of {type(taken).__name__}: {wrong}")
    return found


def wrong_of(is_let: bool, looks: bool, became: Any, before: Sequence[Any], after: Sequence[Any]) -> str:
    is_refused = isinstance(became, AccessRefused) or getattr(became, "outcome", "") == "hidden"
    if not is_let:
        return "" if is_refused and after == before else f"not refused: {became!r}, changed: {after != before}"
    if isinstance(became, Exception) or is_refused:
        return f"did not work: {became!r}"
    if looks:
        return "" if became and after == before else f"looked and saw {became!r}, changed: {after != before}"
    return "did nothing" if after == before else ""


async def taken_for(call: Call, door: str, kind: RoleKind, scene: Scene) -> Any:
    """Return what the call is made on. Who may not claim is handed a task that was claimed by another program."""
    one = next(one for one in call.classes if one in DOORS[door])
    app: Any = {"trio": scene.app, "blocking": scene.app.blocking, "asyncio": Door(scene.app)}[door]
    if one in QUEUES:
        return app.queue("q")
    if one in DESKS:
        return app.desk
    if one is Task:
        return await app.queue("q").claim() if kind in WRITE else None
    if one in TASKS:
        task = scene.in_hand(call.given)
        return task if one is BlockingTask else AsyncTask(task)
    return app


async def outcome(call: Call, taken: Any, scene: Scene) -> Any:
    try:
        return await finished(call.do(taken, scene))
    except AccessRefused as error:
        return error


async def finished(value: Any) -> Any:
    """Take what a call returned to its end, of whichever door it is."""
    if inspect.isawaitable(value):
        return await value
    if hasattr(value, "__anext__"):
        return [one async for one in value]
    if hasattr(value, "__aenter__"):
        async with value:
            return None
    if hasattr(value, "__next__"):
        return list(value)
    if hasattr(value, "__enter__"):
        with value:
            return None
    return value
