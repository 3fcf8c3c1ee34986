"""The way to the state store: calls travel together, few pipelines at once, and nobody is left waiting."""

import asyncio

from tests.worker.valkey import Valkey
from worker.store import SIDE_BY_SIDE, Script, Store, StoreAway, connect

ECHO = Script.of("return ARGV[1]")


async def test_however_many_calls_are_made_few_connections_are_opened(server: Valkey) -> None:
    """A thousand calls over a hundred turns of the loop: each gets its own answer, over a few connections."""
    async with server.client() as client:
        store = Store(client)

        async def later(number: int) -> bytes:
            for _ in range(number % 100):
                await asyncio.sleep(0)
            answer: bytes = await store.call(ECHO, [], [number])
            return answer

        answers = await asyncio.gather(*(later(number) for number in range(1000)))
        opened = (await client.info("clients"))["connected_clients"]

    assert answers == [b"%d" % number for number in range(1000)]
    assert opened <= SIDE_BY_SIDE + 1


async def test_who_waits_behind_a_call_that_fails_is_told_at_once(server: Valkey) -> None:
    """The server is gone: what was under way and what waited for it ends together, and nobody waits for ever."""
    store = Store(connect(f"unix://{server.socket}"))
    assert await store.call(ECHO, [], ["here"]) == b"here"
    server.kill()
    try:
        calls = []
        for number in range(10 * SIDE_BY_SIDE):
            calls.append(asyncio.ensure_future(store.call(ECHO, [], [number])))
            await asyncio.sleep(0)
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        await store.close()
    finally:
        server.start()

    assert {type(end) for end in ends} == {StoreAway}
