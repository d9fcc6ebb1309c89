"""TLS with an authority of one's own, and clients that log in by their certificates (x.509)."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from streamq import AccessRefused, StoreUnavailable, StreamQ, UsageError
from streamq.core.roles import role_of
from tests.certificates import ORGANISATION, Authority
from tests.guarded import Guarded, guarded

DATABASE = "shop"


class Site:
    """A server that speaks TLS, the authority that signed its certificate, and one that did not."""

    def __init__(self, guard: Guarded, ours: Authority, theirs: Authority) -> None:
        self.guard = guard
        self.ours = ours
        self.theirs = theirs
        self.worker = ours.issue("worker", "clients")

    def uri(self, *, authority: Path | None = None, certificate: Path | None = None, host: str = "127.0.0.1") -> str:
        uri = f"{self.guard.server.uri.replace('127.0.0.1', host)}&tls=true&authMechanism=MONGODB-X509"
        uri += f"&tlsCAFile={authority or self.ours.path}"
        return uri if certificate is None else f"{uri}&tlsCertificateKeyFile={certificate}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(directory, "ours"), Authority(directory, "theirs")
    member = ours.issue("mongod", "members", addresses=["127.0.0.1"])
    tls = ("--tlsMode", "preferTLS", "--tlsCertificateKeyFile", str(member), "--tlsCAFile", str(ours.path))
    with guarded(directory, *tls) as guard:
        roles = [role_of(kind, database=DATABASE) for kind in ("operator", "worker")]
        for role in roles:
            guard.root[DATABASE].command(role.command())
        granted = [{"role": role.name, "db": DATABASE} for role in roles]
        subject = f"O={ORGANISATION},OU=clients,CN=worker"
        guard.root["$external"].command("createUser", subject, roles=granted)
        yield Site(guard, ours, theirs)


def refused(uri: str, error: type[Exception], match: str) -> None:
    app = StreamQ(uri, database=DATABASE, timeout_s=0.5)
    with pytest.raises(error, match=match):
        app.blocking.store()
    app.close()


async def test_worker_with_a_certificate_does_its_work(site: Site) -> None:
    app = StreamQ(site.uri(certificate=site.worker), database=DATABASE)

    @app.task
    async def add(a: int, b: int) -> int:
        return a + b

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        assert await (await add.put(1, b=2)).result(timeout_s=10) == 3
        nursery.cancel_scope.cancel()


def test_server_of_another_authority_is_refused(site: Site) -> None:
    refused(site.uri(authority=site.theirs.path, certificate=site.worker), StoreUnavailable, "tlsCAFile=")


def test_server_of_another_host_name_is_refused(site: Site) -> None:
    refused(site.uri(certificate=site.worker, host="localhost"), StoreUnavailable, "of another host")


def test_server_whose_certificate_has_expired_is_refused(site: Site) -> None:
    expired = site.ours.issue("mongod", "members", addresses=["127.0.0.1"], days=-1)
    with shaking_hands(expired) as port:  # mongod does not start with one
        uri = re.sub(r"(127\.0\.0\.1):\d+", rf"\1:{port}", site.uri(certificate=site.worker))
        refused(uri, StoreUnavailable, "has expired")


@pytest.mark.parametrize("kind", ["none", "expired", "of another authority"])
def test_client_certificate_that_is_not_valid_is_refused(site: Site, kind: str) -> None:
    certificate = {
        "none": None,
        "expired": site.ours.issue("worker", "clients", days=-1),
        "of another authority": site.theirs.issue("worker", "clients"),
    }[kind]
    refused(site.uri(certificate=certificate), StoreUnavailable, "tlsCertificateKeyFile=")


def test_certificate_of_a_stranger_is_no_login(site: Site) -> None:
    stranger = site.ours.issue("stranger", "clients")
    refused(site.uri(certificate=stranger), AccessRefused, "CN=stranger")


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_file_that_is_no_certificate_is_told_by_name(site: Site, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "bad.pem"
    if text is not None:
        path.write_text(text)
    refused(site.uri(authority=path), UsageError, "file that the URI names for TLS")


@contextlib.contextmanager
def shaking_hands(certificate: Path) -> Iterator[int]:
    """Shake hands on a port with this certificate, and no more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ended = threading.Event()

        def shake() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError), listening.accept()[0] as one:
                    one.settimeout(1)
                    context.wrap_socket(one, server_side=True).close()

        thread = threading.Thread(target=shake)
        thread.start()
        port: int = listening.getsockname()[1]
        try:
            yield port
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
            thread.join()
