"""What a connection string says that is refused, though the driver would only pass over it, and what is warned of.

The driver warns of an option whose value it cannot read, and goes on without the option: `tls=True` connects without
TLS. Here such a value is an error. An option that nobody knows stays the driver's warning: it may be meant for another
driver.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from pymongo.errors import PyMongoError
from pymongo.uri_parser import split_options

from streamq.errors import InsecureConnection, UsageError

UNCHECKED: Final = ("tlsinsecure", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames")
"""Options that take from TLS the proof of who answers."""

ON: Final = "true"


def said_of(uri: str) -> list[tuple[str, str]]:
    """Return the options of a connection string as they stand there. Raises ValueError."""
    return parse_qsl(urlsplit(uri).query, keep_blank_values=True)


def require_values(uri: str) -> None:
    """Raise `UsageError` for an option with a value that the driver could not read. An unknown one is let pass."""
    for name, value in said_of(uri):
        try:
            split_options(f"{name}={value}", validate=True, warn=False)
        except PyMongoError:
            continue  # the driver's own to tell
        except (ValueError, TypeError) as error:
            raise UsageError(f"cannot connect: {name}= in the URI is refused: {error}") from error


def warn_of_risks(uri: str) -> None:
    """Warn, once each, of a connection that others can read or take over."""
    for risk in risks(uri):
        warnings.warn(risk, InsecureConnection, stacklevel=2)


def risks(uri: str) -> Iterator[str]:
    """Say what of a connection string leaves the connection open to others."""
    scheme, _, rest = uri.partition("://")
    options = {name.lower(): value.lower() for name, value in said_of(uri)}
    has_tls = options.get("tls", options.get("ssl", ON if scheme.lower() == "mongodb+srv" else "")) == ON
    for name, _ in said_of(uri):
        if name.lower() in UNCHECKED and options[name.lower()] == ON:
            yield (
                f"{name}=true in the connection string: whoever is on the way can answer in the server's place, read "
                "every task and take the login; name the server's authority by tlsCAFile= instead"
            )
    login, at, hosts = re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")
    away = [host for host in hosts.split(",") if not is_loopback(host)]
    if at and login and away and not has_tls:
        yield (
            f"a login without TLS to {', '.join(away)}: whoever is on the way can read every task, and write in this "
            "user's name; say tls=true in the connection string"
        )


def is_loopback(host: str) -> bool:
    """Say whether a host of a connection string is this machine itself, which a network does not carry."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost" or name.lower().endswith((".sock", ".localhost")):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
