"""Put a task, run it, read its result."""

import os

import trio

from streamq import StreamQ

# Your server, or a MongoDB of its own that ends with the program.
app = StreamQ(database="examples") if os.environ.get("STREAMQ_URI") else StreamQ.embedded(database="examples")


@app.task(queue="hello")
async def greet(name: str, *, greeting: str = "Hello") -> str:
    return f"{greeting}, {name}!"


async def main() -> None:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)  # a worker; usually a process of its own: `streamq worker hello:app`
        handle = await greet.put("world", greeting="Good evening")
        print(await handle.result(timeout_s=10))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
    app.close()
