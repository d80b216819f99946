"""langchain-openai: a chat model whose calls, sync and async, are a user's, limited and recorded.

Needs langchain-openai, and OPENAI_API_KEY in the environment.
"""

from __future__ import annotations

import asyncio

from langchain_openai import ChatOpenAI

from safe_llm import AsyncSafeOpenAI, DeniedError, MemoryQuotaStore, SafeOpenAI

POLICY = {"plans": {"default": {"limits": ["2 requests/minute", "$0.50/day"]}}}


def chat_model(client: SafeOpenAI, async_client: AsyncSafeOpenAI) -> ChatOpenAI:
    """All four are needed: for a colour that is left out, the framework makes a client of its own, without limits."""
    return ChatOpenAI(
        model="gpt-4o-mini",
        root_client=client,
        client=client.chat.completions,
        root_async_client=async_client,
        async_client=async_client.chat.completions,
    )


async def main() -> None:
    store = MemoryQuotaStore()  # so that both clients count together
    async with AsyncSafeOpenAI(policy=POLICY, quota_store=store) as async_client:
        with SafeOpenAI(policy=POLICY, quota_store=store) as client:
            who = {"user_id": "alice", "feature": "chat"}
            model = chat_model(client.with_identity(**who), async_client.with_identity(**who))
            print(model.invoke("Say hello.").text)
            async for chunk in model.astream("Tell me a story."):
                print(chunk.text, end="")
            print()
            try:
                model.invoke("And another one.")
            except DeniedError as denial:
                print(f"{denial.status_code}: {denial}")


if __name__ == "__main__":
    asyncio.run(main())
