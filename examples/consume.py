"""The bare loop: no handlers, nothing between your code and the queue."""

import os

import trio

from streamq import StreamQ

app = StreamQ(database="examples") if os.environ.get("STREAMQ_URI") else StreamQ.embedded(database="examples")


async def produce() -> None:
    for price in (101.5, 102.0, "?", 99.5):
        await app.queue("ticks").put({"price": price}, max_attempts=1)


async def main() -> None:
    async with app, trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        seen = 0
        async with app.queue("ticks").consume(prefetch=8) as tasks:
            async for task in tasks:
                async with task:  # success on exit; an exception fails the attempt and is kept on the task
                    print(f"attempt {task.info.attempt}: {task.payload['price']}")
                    float(task.payload["price"])
                seen += 1
                if seen == 4:
                    break  # what was claimed ahead and not begun goes back to the queue
        print((await app.counts())["ticks"])


if __name__ == "__main__":
    trio.run(main)
    app.close()
