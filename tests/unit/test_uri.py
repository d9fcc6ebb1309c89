"""What a connection string says: what cannot be read is refused, what leaves it open is warned of, once each."""

from __future__ import annotations

import warnings

import pytest

from streamq import InsecureConnection, StreamQ, UsageError
from streamq.store.setup import connect
from streamq.store.uri import is_loopback, risks

AWAY = "mongodb://user:CANARY@db.internal/?replicaSet=rs0"


def warned(uri: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            connect(uri).close()
    assert {one.category for one in caught} <= {InsecureConnection}
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("option", ["tlsInsecure", "tlsAllowInvalidCertificates", "tlsallowinvalidhostnames"])
def test_tls_without_a_check_is_warned_of_once(option: str) -> None:
    (said,) = warned(f"{AWAY}&tls=true&{option}=true")
    assert said.startswith(f"{option}=true in the connection string: ")
    assert warned(f"{AWAY}&tls=true&{option}=false") == []


def test_login_without_tls_to_another_host_is_warned_of_once_without_its_password() -> None:
    (said,) = warned("mongodb://user:CANARY@127.0.0.1,db.internal:27018/?replicaSet=rs0")
    assert said.startswith("a login without TLS to db.internal:27018: ")
    assert "CANARY" not in said
    assert len(warned(f"{AWAY}&tls=false")) == 1


@pytest.mark.parametrize(
    "uri",
    [
        f"{AWAY}&tls=true",
        f"{AWAY}&ssl=true",
        "mongodb+srv://user:x@db.internal/",
        "mongodb://db.internal/",
        "mongodb://user:x@localhost:27018,127.0.0.2,[::1]:27019/db?replicaSet=rs0",
        "mongodb://user:x@%2Ftmp%2Fmongodb-27017.sock/",
    ],
)
def test_sound_connection_is_not_warned_of(uri: str) -> None:
    assert list(risks(uri)) == []


def test_srv_without_its_tls_is_warned_of() -> None:
    assert len(list(risks("mongodb+srv://user:x@db.internal/?tls=false"))) == 1


@pytest.mark.parametrize(
    "option", ["tls=True", "tls=2", "authMechanism=SCRAM-SHA256", "tlsInsecure=yes", "w=-1", "maxPoolSize=many"]
)
def test_option_that_cannot_be_read_is_refused_and_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option.partition('=')[0]}= in the URI is refused"):
        StreamQ(f"{AWAY}&{option}").blocking.store()


@pytest.mark.filterwarnings("ignore")
def test_option_that_is_unknown_may_be_for_another_driver() -> None:
    connect("mongodb://localhost/?waitQueueMultiple=2").close()


@pytest.mark.parametrize(
    "host", ["db.internal", "10.0.0.1", "::2", "", "127.0.0.1.evil.org", "[::2]:1", "localhost.org"]
)
def test_host_elsewhere_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
