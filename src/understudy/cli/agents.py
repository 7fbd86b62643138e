"""An agent as commands name it: a run, an adapter's folder, or an endpoint's URL."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from understudy.cli.data import trained_folder


@asynccontextmanager
async def opened_agent(
    name: str,
    model: str | None,
    key_env: str | None,
    temperature: float,
    threads: int | None = None,
    option: str = "--model",
    device: str = "auto",
    vllm: str | None = None,
) -> AsyncIterator[Any]:
    """The agent (recipes.agents.Agent). `option` is what names the model at a URL,
    `device` where one of ours computes, `vllm` the URL of a server that does in its place.

    Raises ValueError where a URL's model is not named, the key's variable is not set, or the device
    is not there.
    """
    from understudy.core.types import ModelRef
    from understudy.recipes.agents import agent_of, trained_agent

    if not name.startswith(("http://", "https://")):
        folder = trained_folder(Path(name))
        if vllm is not None:
            from understudy.recipes.over_vllm import agent_over_vllm

            async with agent_over_vllm(folder, temperature, vllm) as plays:
                yield plays
            return
        async with trained_agent(folder, temperature, threads, device) as plays:
            yield plays
        return
    from understudy.engine.chat import RemoteChat

    if vllm is not None:
        raise ValueError("--vllm serves a run or an adapter's folder: name that in the URL's place")
    if model is None:
        raise ValueError(f"name the model at that URL with {option}")
    if key_env is not None and key_env not in os.environ:
        raise ValueError(f"the environment has no variable {key_env}")
    async with RemoteChat(name, os.environ[key_env] if key_env else None) as chat:
        yield agent_of(model, chat, ModelRef(model), temperature)
