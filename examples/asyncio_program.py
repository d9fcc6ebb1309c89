"""The queue in an asyncio program: put, claim, settle and wait for results, without trio."""

from __future__ import annotations

import asyncio
import os

import streamq.asyncio
from streamq import StreamQ

uri = os.environ.get("STREAMQ_URI")
app = StreamQ(uri, database="examples") if uri else StreamQ.embedded(database="examples")
queues = streamq.asyncio.Door(app)


async def square() -> None:
    async for task in queues.queue("numbers").consume(wait_s=1):
        async with task:
            await task.succeed(task.payload**2)


async def main() -> None:
    squaring = asyncio.create_task(square())
    replies = await queues.queue("numbers").put_many(range(4))
    print([await queues.result(reply.id, timeout_s=10) for reply in replies])
    await squaring


asyncio.run(main())
app.close()
