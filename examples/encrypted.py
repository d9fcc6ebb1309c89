"""What tasks carry is encrypted before it is sent: the server, its backups and whoever reads them see none of it.

    STREAMQ_URI=... STREAMQ_KEYS="<new key> <old key>" python examples/encrypted.py

The first key encrypts, all of them decrypt. To change keys: give every program the new one as the last, then every
program the new one as the first, and drop the old one when no task is left that was put before. A key is made by
`cryptography.fernet.Fernet.generate_key()`.
"""

from __future__ import annotations

import hashlib
import hmac
import os

import trio
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from streamq import CodecContext, StreamQ

DIGEST_BYTES = hashlib.sha256().digest_size


class FernetCodec:
    """Encrypts and signs by Fernet (AES-128-CBC, HMAC-SHA-256), and binds what it encrypts to its place, so that
    nobody who may write the collection can pass the result of one queue off as the payload of another."""

    def __init__(self, *keys: str) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def encode(self, data: bytes, context: CodecContext) -> bytes:
        return self._fernet.encrypt(hashlib.sha256(context.associated()).digest() + data)

    def decode(self, data: bytes, context: CodecContext) -> bytes:
        plain = self._fernet.decrypt(data)
        if not hmac.compare_digest(plain[:DIGEST_BYTES], hashlib.sha256(context.associated()).digest()):
            raise InvalidToken  # it is genuine, but of another queue or field
        return plain[DIGEST_BYTES:]


async def main() -> None:
    keys = os.environ.get("STREAMQ_KEYS", "").split() or [Fernet.generate_key().decode()]
    codec = FernetCodec(*keys)
    made = StreamQ if os.environ.get("STREAMQ_URI") else StreamQ.embedded
    app = made(database="examples", codec=codec)

    @app.task
    async def charge(card: str, cents: int) -> str:
        return f"charged {cents} to {card[-4:]}"

    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        handle = await charge.put("4000 0000 0000 0002", cents=995)
        print(await handle.result(timeout_s=10))
        nursery.cancel_scope.cancel()
    app.close()


if __name__ == "__main__":
    trio.run(main)
