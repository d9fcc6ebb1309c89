"""Put tasks that start later: by a delay, at an instant, after a failed attempt, after a snooze."""

import os
from datetime import UTC, datetime, timedelta

import trio

from streamq import Retry, Snooze, StreamQ, current_task

app = StreamQ(database="examples") if os.environ.get("STREAMQ_URI") else StreamQ.embedded(database="examples")


@app.task(queue="kitchen")
async def cook(dish: str, ordered_at: datetime) -> None:
    waited_s = (datetime.now(UTC) - ordered_at).total_seconds()
    print(f"{dish}: started after {waited_s:.2f} s")


@app.task(queue="kitchen", retry=Retry(max_attempts=3, first_s=0.2, jitter=False))
async def light_oven() -> int:
    attempt = current_task().attempt
    if attempt < 3:
        raise RuntimeError("it did not light")  # tried again after 0.2 s, then 0.4 s
    return attempt


@app.task(queue="kitchen")
async def serve(ready_at: datetime) -> str:
    if datetime.now(UTC) < ready_at:
        raise Snooze(0.2)  # later, without using up an attempt
    return f"served at attempt {current_task().attempt}"


async def main() -> None:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        now = datetime.now(UTC)
        cooking = [
            await cook.options(delay_s=1).put("stew", now),
            await cook.options(at=now + timedelta(seconds=0.5)).put("tart", now),
            await cook.put("salad", now),
        ]
        oven = await light_oven.put()
        guest = await serve.put(now + timedelta(seconds=0.5))
        for handle in cooking:
            await handle.result(timeout_s=10)
        print("oven: lit at attempt", await oven.result(timeout_s=10))
        print("guest:", await guest.result(timeout_s=10))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
    app.close()
