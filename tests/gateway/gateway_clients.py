"""Clients of a running gateway."""

from typing import Any

import openai

from understudy.gateway.app import Running


def client_of(running: Running, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=running.url, api_key=options.pop("api_key", "k"), max_retries=0, **options
    )
