"""What a put can say of its task beside the payload: tag, retention."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from streamq.core.outcome import Raised
from streamq.core.settlement import SettleMove

if TYPE_CHECKING:
    from tests.conformance.conftest import Lab, MongoLab

BOOM = Raised(type="Boom", message="it broke")
DAY_S = 86_400.0


def kept_s(stored: dict[str, Any]) -> float:
    kept: timedelta = stored["remove_at"] - stored["finished_at"]
    return kept.total_seconds()


# --- tag -----------------------------------------------------------------------------------------------------------


def test_a_tag_is_stored_as_it_is_and_told_to_the_holder(lab: Lab) -> None:
    claim = lab.claimed(options={"tag": "$tag ä"})
    assert lab.stored(claim.id)["tag"] == claim.tag == "$tag ä"


# --- retention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, 7 * DAY_S), (0.0, 0.0), (90.5, 90.5)])
def test_a_failed_task_is_kept_as_its_put_said(lab: Lab, given: float | None, expected: float) -> None:
    claim = lab.claimed(keep_failed_s=given)
    lab.settle(claim, "fail", error=BOOM)
    assert kept_s(lab.stored(claim.id)) == expected


@pytest.mark.parametrize(("given", "expected"), [(None, 7 * DAY_S), (90.5, 90.5)])
def test_a_task_that_no_holder_ended_is_kept_as_its_put_said(lab: Lab, given: float | None, expected: float) -> None:
    claim = lab.claimed(keep_failed_s=given, max_attempts=1)
    lab.pass_time(31)
    assert lab.store.tick().failed == 1
    assert kept_s(lab.stored(claim.id)) == expected


@pytest.mark.parametrize("move", ["succeed"])
def test_the_retention_of_failures_does_not_touch_successes(lab: Lab, move: SettleMove) -> None:
    claim = lab.claimed(keep_failed_s=90)
    lab.settle(claim, move, keep_s=5.0)
    assert kept_s(lab.stored(claim.id)) == 5.0


@pytest.mark.parametrize("value", ["7", -1, float("nan"), float("inf"), None, {"$gt": 0}, [5.0]])
def test_a_retention_that_is_no_number_is_the_default(mongo: MongoLab, value: Any) -> None:
    claim = mongo.claimed()
    mongo.edit(claim.id, {"$set": {"keep_failed_s": value}})
    assert mongo.settle(claim, "fail", error=BOOM) == "settled"
    assert kept_s(mongo.stored(claim.id)) == 7 * DAY_S
