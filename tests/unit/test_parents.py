"""What a task waits for, and how ends of its parents are weighed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId

from streamq.core.document import TaskDocument
from streamq.core.moves import unblock
from streamq.core.moves.fence import LOCKS, terminal_fields
from streamq.core.parents import GONE, awaited

A, B, C, D = (ObjectId() for _ in range(4))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("after", "after_any", "policy", "ends", "all", "any"),
    [
        ([A, B], [], "cancel", {}, [A, B], None),
        ([A, B], [], "cancel", {A: "succeeded"}, [B], None),
        ([A, B], [], "cancel", {A: "failed"}, [A, B], None),
        ([A, B], [], "run", {A: "failed", B: "expired"}, [], None),
        ([], [A, B], "cancel", {}, [A, B], [A, B]),
        ([], [A, B], "cancel", {A: "succeeded"}, [], None),
        ([], [A, B], "cancel", {A: "cancelled"}, [A, B], [A, B]),
        ([A], [B, C], "cancel", {}, [A, B, C], [B, C]),
        ([A], [B, C], "cancel", {B: "succeeded"}, [A], None),
        ([A], [A, B], "cancel", {}, [A], None),
    ],
)
def test_a_put_awaits_what_has_not_come(after: Any, after_any: Any, policy: Any, ends: Any, all: Any, any: Any) -> None:
    awaits = awaited(after, after_any, policy, ends)
    assert (awaits.all, awaits.any) == (all, any)
    assert awaits.is_nothing == (not all)


def blocked(**more: Any) -> TaskDocument:
    document: Any = {"_id": D, "status": "blocked", "queue": "q", "attempt": 0, "follow_up": 0.0}
    return document | more  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("more", "ends", "status"),
    [
        ({"blocked_by": [A]}, {A: "succeeded"}, "ready"),
        ({"blocked_by": [A], "due_at": NOW.replace(year=2027)}, {A: "succeeded"}, "delayed"),
        ({"blocked_by": [A], "due_at": NOW}, {A: "succeeded"}, "ready"),
        ({"blocked_by": [A, B]}, {A: "succeeded"}, "blocked"),
        ({"blocked_by": [A]}, {B: "failed"}, "blocked"),
        ({"blocked_by": [A]}, {A: GONE}, "cancelled"),
        ({"blocked_by": [A], "on_parent_failure": "fail"}, {A: "expired"}, "failed"),
        ({"blocked_by": [A], "on_parent_failure": "run"}, {A: "cancelled"}, "ready"),
        ({"blocked_by": [A, B], "blocked_by_any": [A, B]}, {A: "failed"}, "blocked"),
        ({"blocked_by": [A, B], "blocked_by_any": [A, B]}, {A: "failed", B: "succeeded"}, "ready"),
        ({"blocked_by": [A, B], "blocked_by_any": [A, B]}, {A: "failed", B: GONE}, "cancelled"),
        ({"blocked_by": [A, B, C], "blocked_by_any": [A, B]}, {A: "succeeded"}, "blocked"),
        ({"blocked_by": [A, B, C], "blocked_by_any": [A, B]}, {A: "succeeded", C: "succeeded"}, "ready"),
        ({"blocked_by": [A, B, C], "blocked_by_any": [A, B]}, {A: "succeeded", C: "failed"}, "cancelled"),
        ({"blocked_by": [A, B], "blocked_by_any": [A, B], "on_parent_failure": "run"}, {A: "failed"}, "ready"),
    ],
)
def test_ends_of_parents_are_weighed(more: Any, ends: Any, status: str) -> None:
    document = blocked(**more)
    unblock.apply(document, ends, NOW)
    assert document["status"] == status
    assert ("blocked_by" in document) == (status == "blocked")
    assert ("ready_in" in document) == (status == "ready")
    assert ("errors" in document) == ("finished_at" in document) == (status in ("cancelled", "failed"))


def test_an_update_writes_whatever_a_terminal_move_writes() -> None:
    written = unblock.update({A: "failed"})[3]["$set"]
    assert terminal_fields(1.0).keys() <= written.keys()
    assert set(LOCKS) <= written.keys()
