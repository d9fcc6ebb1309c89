"""A queue inside a larger trio program: a small TCP server whose slow work goes through tasks.

Each line that a client sends becomes a task; the answer is its result. The workers may run here, as below, or in other
processes and on other machines: nothing else would change.
"""

import os
from functools import partial

import trio

from streamq import StreamQ, TaskFailed

app = StreamQ(database="examples") if os.environ.get("STREAMQ_URI") else StreamQ.embedded(database="examples")


@app.task(queue="sums")
def add(numbers: list[float]) -> float:  # not async: runs in a thread
    return sum(numbers)


async def serve_client(stream: trio.SocketStream) -> None:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            await stream.send_all((await answer_to(line)).encode() + b"\n")


async def answer_to(line: bytes) -> str:
    try:
        handle = await add.put([float(word) for word in line.split()])
        return f"{await handle.result(timeout_s=10):g}"
    except (ValueError, TaskFailed) as error:
        return f"error: {error}"


async def ask(port: int, line: str) -> str:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(line.encode() + b"\n")
        return (await stream.receive_some()).decode().strip()


async def main() -> None:
    async with app, trio.open_nursery() as nursery:
        await nursery.start(partial(app.work, {"sums": 4}))
        listeners = await nursery.start(partial(trio.serve_tcp, serve_client, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        for line in ("1 2 3", "0.5 0.25", "one two"):
            print(f"{line} -> {await ask(port, line)}")
        nursery.cancel_scope.cancel()  # the server, its clients and the workers; claimed tasks are given back


if __name__ == "__main__":
    trio.run(main)
    app.close()
