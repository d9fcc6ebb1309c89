"""When a node that came back is a member in good order."""

from __future__ import annotations

from tests.chaos.scene import is_in_order

PRIMARY = {"isWritablePrimary": True, "secondary": False}
SECONDARY = {"isWritablePrimary": False, "secondary": True}
STARTING = {"isWritablePrimary": False, "secondary": False}


def test_node_is_in_order_when_it_follows_or_is_the_one_primary() -> None:
    assert is_in_order(SECONDARY, [None, STARTING])
    assert is_in_order(PRIMARY, [SECONDARY, None])


def test_node_is_not_in_order_before_it_has_a_role() -> None:
    assert not is_in_order(None, [PRIMARY])
    assert not is_in_order(STARTING, [PRIMARY, SECONDARY])


def test_primary_that_was_replaced_and_does_not_know_is_not_in_order() -> None:
    assert not is_in_order(PRIMARY, [SECONDARY, PRIMARY])
