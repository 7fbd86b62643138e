"""What the gateway knows of deployments and models, and how it goes on without its store."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import aiohttp
import openai
import pytest

from understudy.core.types import ModelRef, Policy


async def ask(running: Any, model: str) -> Any:
    async with openai.AsyncOpenAI(base_url=running.url, api_key="k", max_retries=0) as client:
        return await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}]
        )


async def test_a_deployed_model_without_an_upstream_goes_where_the_configuration_says(
    gateway: Any, engine: Any
) -> None:
    running = await gateway(deployed="engine")
    running.gateway.store.deploy_now("prod", [(Policy("new", ModelRef("new")), 1.0)])
    running.gateway.router.refresh()
    assert (await ask(running, "prod")).model == "new"
    assert engine.bodies[-1]["model"] == "new"
    with pytest.raises(openai.NotFoundError, match="there is no model 'new'"):
        await ask(running, "new")  # only what is deployed


async def test_without_such_an_upstream_it_is_an_error_that_names_the_model(gateway: Any) -> None:
    running = await gateway()
    running.gateway.store.deploy_now("prod", [(Policy("new", ModelRef("new")), 1.0)])
    running.gateway.router.refresh()
    with pytest.raises(openai.InternalServerError, match="deployed to new, for which no upstream"):
        await ask(running, "prod")


async def test_one_model_can_be_asked_about(gateway: Any) -> None:
    running = await gateway(models={"m": "stub", "org/m": "stub"})
    async with openai.AsyncOpenAI(base_url=running.url, api_key="k", max_retries=0) as client:
        assert (await client.models.retrieve("m")).id == "m"
        assert (await client.models.retrieve("org/m")).id == "org/m"
        with pytest.raises(openai.NotFoundError, match="the models are: m, org/m"):
            await client.models.retrieve("gone")


async def health(running: Any, wanted: str) -> Any:
    """What /health says once its status is this."""
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            async with session.get(running.url.replace("/v1", "/health")) as answer:
                said = await answer.json()
            if said["status"] == wanted:
                return said


async def test_a_poll_that_fails_is_reported_and_tried_again(gateway: Any) -> None:
    running = await gateway()
    store = running.gateway.store
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("ALTER TABLE keys RENAME TO elsewhere")  # a store that cannot be read
        assert "no such table: keys" in (await health(running, "degraded"))["fault"]
        assert (await ask(running, "m")).model == "m"
        other.execute("ALTER TABLE elsewhere RENAME TO keys")
    assert (await health(running, "ok"))["fault"] is None
    store.deploy_now("prod", [(Policy("m", ModelRef("m")), 1.0)])
    async with asyncio.timeout(20):
        while "prod" not in running.gateway.router.names:
            await health(running, "ok")
    assert (await ask(running, "prod")).model == "m"


async def test_a_long_read_holds_up_neither_deployments_nor_calls(gateway: Any) -> None:
    running = await gateway()
    store = running.gateway.store
    with store._read():  # a reader of this process, in the middle of its read
        await asyncio.to_thread(store.deploy_now, "prod", [(Policy("m", ModelRef("m")), 1.0)])
        async with asyncio.timeout(20):
            while "prod" not in running.gateway.router.names:
                await health(running, "ok")
            assert (await ask(running, "prod")).model == "m"
