"""Which features tasks take part in."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

from streamq.core.features import FEATURES, features_of, named
from streamq.core.indexes import INDEXES, needed
from streamq.core.new_task import NewTask
from streamq.core.options import NO_OPTIONS, Options


def new(options: Options = NO_OPTIONS, **more: Any) -> NewTask:
    return NewTask(ObjectId(), "q", "t", 1, options, max_attempts=5, **more)


@pytest.mark.parametrize(
    ("task", "features"),
    [
        (new(), set()),
        (new(Options(delay_s=1.0, headers={"a": "b"}, rate_key="k")), set()),
        (new(expires_in_s=1.0), {"expiry"}),
        (new(Options(lifetime_s=1.0, tag="t")), {"lifetime", "search"}),
        (new(Options(group="g")), {"followers"}),
        (new(Options(after_any=[ObjectId()])), {"followers"}),
    ],
)
def test_tasks_take_part_in_what_their_options_say(task: NewTask, features: set[str]) -> None:
    assert features_of([task]) == features
    assert features_of([new(), task, new()]) == features


def test_features_of_a_newer_streamq_are_not_ours() -> None:
    assert named(["search", "dreams"]) == {"search"}


def test_every_feature_has_indexes_and_all_of_them_are_all() -> None:
    assert {index.feature for index in INDEXES} == {None, *FEATURES}
    assert needed(FEATURES) == INDEXES
