"""Who is dismissed when a server says that it is primary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final, cast

from bson import ObjectId
from pymongo.hello import Hello
from pymongo.monitoring import ServerHeartbeatSucceededEvent

from streamq.store.succession import Address, Succession
from tests.patience import eventually

A: Final[Address] = ("a", 1)
B: Final[Address] = ("b", 2)
FIRST, SECOND, THIRD = (ObjectId(f"7fffffff000000000000000{number}") for number in range(1, 4))


class Told(Succession):
    """Notes whom it dismisses."""

    def __init__(self) -> None:
        super().__init__()
        self.dismissed: list[Address] = []

    def dismiss(self, address: Address) -> None:
        self.dismissed.append(address)

    def hear(self, address: Address, elected: ObjectId | None) -> None:
        """A server says whether it is primary, and by which election."""
        said: dict[str, Any] = {"ok": 1, "setName": "rs0", "secondary": elected is None}
        if elected is not None:
            said |= {"isWritablePrimary": True, "electionId": elected}
        self.succeeded(ServerHeartbeatSucceededEvent(0.0, Hello(said), address))


def test_primary_before_is_dismissed_by_the_word_of_the_next() -> None:
    one = Told()
    one.hear(A, FIRST)
    one.hear(B, None)
    assert one.dismissed == []
    one.hear(B, SECOND)
    assert one.dismissed == [A]
    one.hear(B, SECOND)
    assert one.dismissed == [A]


def test_primary_that_said_itself_that_it_is_none_is_dismissed_by_the_next_one_too() -> None:
    one = Told()
    one.hear(A, FIRST)
    one.hear(A, None)
    assert one.dismissed == []
    one.hear(B, SECOND)
    assert one.dismissed == [A]


def test_primary_that_said_that_it_is_none_and_is_elected_again_is_not_dismissed() -> None:
    one = Told()
    one.hear(A, FIRST)
    one.hear(A, None)
    one.hear(A, SECOND)
    assert one.dismissed == []


def test_primary_of_an_earlier_election_dismisses_nobody() -> None:
    one = Told()
    one.hear(A, FIRST)
    one.hear(B, SECOND)
    one.hear(A, FIRST)  # it was frozen, and does not know yet
    assert one.dismissed == [A]
    one.hear(A, THIRD)
    assert one.dismissed == [A, B]


def test_primary_that_is_elected_again_is_not_dismissed() -> None:
    one = Told()
    one.hear(A, FIRST)
    one.hear(A, SECOND)
    assert one.dismissed == []


def test_server_of_no_set_dismisses_nobody() -> None:
    one = Told()
    one.succeeded(ServerHeartbeatSucceededEvent(0.0, Hello({"ok": 1, "msg": "isdbgrid"}), A))
    one.hear(B, FIRST)
    assert one.dismissed == []


class Client:
    """Takes a server for primary, and says so."""

    def __init__(self, primary: Address) -> None:
        self.primary = primary

    @property
    def topology_description(self) -> SimpleNamespace:
        named = {one: "RSPrimary" if one == self.primary else "RSSecondary" for one in (A, B)}
        return SimpleNamespace(
            server_descriptions=lambda: {one: SimpleNamespace(server_type_name=name) for one, name in named.items()}
        )


def test_primary_before_is_dismissed_only_when_the_client_sends_calls_to_the_next() -> None:
    """A call that ends sooner is sent to the one before again."""
    one, client = Told(), Client(A)
    one.attend(cast(Any, client))
    one.hear(A, FIRST)
    one.hear(B, SECOND)
    assert not eventually(lambda: one.dismissed, 0.1)
    client.primary = B
    assert eventually(lambda: one.dismissed == [A])


def test_primary_before_is_dismissed_at_once_when_the_client_knows_of_the_next() -> None:
    one, client = Told(), Client(B)
    one.attend(cast(Any, client))
    one.hear(A, FIRST)
    one.hear(B, SECOND)
    assert one.dismissed == [A]
