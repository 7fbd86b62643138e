"""What clients ask of an answer's form and draws, on its way through the gateway."""

import json
from typing import Any

from gateway_clients import client_of

from understudy.core.types import ModelRef, Policy, Sampling

USER: Any = {"role": "user", "content": "echo x"}
TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


async def test_what_an_answer_may_be_reaches_the_engine_and_the_store_as_it_came(
    gateway: Any, engine: Any
) -> None:
    running = await gateway()
    policy = Policy("p", ModelRef("tiny"), sampling=Sampling(0.5, logit_bias=((4, -3.0),)))
    running.gateway.store.deploy_now("prod", [(policy, 1.0)])
    running.gateway.router.refresh()
    named: Any = {"type": "function", "function": {"name": "find"}}
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    asked: dict[str, Any] = {
        "tool_choice": named, "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }  # fmt: skip
    drawn: Any = {"logprobs": True, "top_logprobs": 2, "logit_bias": {"9": -100}}
    async with client_of(running) as client:
        for model in ("tiny", "prod"):
            await client.chat.completions.create(
                model=model, messages=[USER], tools=[TOOL], **asked, **drawn
            )
    own, deployed = engine.bodies
    assert own.items() >= (asked | drawn).items()
    assert deployed.items() >= (asked | drawn | {"logit_bias": {"4": -3.0}}).items()
    found = [c.request for e in running.gateway.store.read_episodes() for c in e.completions]
    biases = [((9, -100.0),), ((4, -3.0),)]
    for request, body, bias in zip(found, (own, deployed), biases, strict=True):
        assert (request.sampling.logit_bias, request.sampling.top_logprobs) == (bias, 2)
        assert request.tool_choice == named
        assert request.parallel_tool_calls is False
        assert json.dumps(request.response_format) == json.dumps(body["response_format"])
