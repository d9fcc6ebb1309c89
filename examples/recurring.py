"""Tasks that recur: a grid of seconds and a cron expression, one run now, one disabled."""

import os

import trio

from streamq import StreamQ, current_task

app = StreamQ(database="examples") if os.environ.get("STREAMQ_URI") else StreamQ.embedded(database="examples")
beats = 0
enough = trio.Event()


@app.task(queue="clock", every_s=1)
async def beat() -> None:
    global beats
    beats += 1
    if beats <= 2:
        print("beat", beats)
    if beats == 2:
        enough.set()


@app.task(queue="clock", cron="30 2 * * *", tz="Europe/Berlin", missed="latest", overlap=False)
async def report(days: int = 1) -> str:
    return f"{days} day, slot {current_task().slot_at}"


async def main() -> None:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(app.work)
        await app.enable_schedule("beat")  # an earlier run has disabled it: that is kept
        print("now:", await (await report.run_now()).result(timeout_s=10))
        await enough.wait()
        await app.disable_schedule("beat")
        for schedule in await app.schedules():
            print(f"{schedule.name}: {schedule.spec}, {'on' if schedule.enabled else 'off'}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
    app.close()
