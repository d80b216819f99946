"""Streams are metered and bounded too, and leaving the loop ends them: nobody pays for what nobody reads."""

from __future__ import annotations

import asyncio

from safe_llm import AsyncSafeOpenAI, DeadlineExceededError, identify
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

POLICY = {"features": {"search": {"time": {"deadline_seconds": 0.5}}}}


async def read(client: AsyncSafeOpenAI, most: int | None = None) -> None:
    stream = await client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Tell me a story."}], stream=True
    )
    words = 0
    async for chunk in stream:
        words += bool(chunk.choices and chunk.choices[0].delta.content)
        if words == most:
            break


async def main() -> None:
    sink = RecordingSink()
    async with (
        FakeOpenAI() as server,
        AsyncSafeOpenAI(base_url=server.base_url, api_key="none", policy=POLICY, sinks=[sink]) as client,
    ):
        server.script(Reply(chunks=20), Reply(chunks=20, drip=0.05), Reply(chunks=100, drip=0.05))
        with identify(user_id="alice"):
            await read(client)
            await read(client, most=3)
        try:
            with identify(user_id="alice", feature="search"):
                await read(client)
        except DeadlineExceededError as error:
            print(error)
    # A provider tells the usage of a stream at its end only; of one that ended early it is estimated.
    for record in sink.records:
        print(f"{record.outcome}: {record.total_tokens} tokens, ${record.cost_usd:f}, {record.usage_source}")


if __name__ == "__main__":
    asyncio.run(main())
