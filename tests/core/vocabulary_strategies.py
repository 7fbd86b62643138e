"""Hypothesis strategies for the vocabulary: any value of a type that can exist."""

from hypothesis import strategies as st

from understudy.core.types import (
    Completion,
    Episode,
    Feedback,
    ModelRef,
    Provenance,
    Request,
    Sampling,
    Scenario,
    ToolResult,
    Usage,
)

# lone surrogates can come in JSON escapes and must survive in message bodies
any_text = st.text(st.characters(exclude_categories=()), max_size=20)
clean_text = st.text(max_size=12)
names = st.text("abcdefgh_-é", min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | numbers | any_text
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(clean_text, inner, max_size=3),
    max_leaves=6,
)
metadata = st.dictionaries(clean_text, json_values, max_size=3)
times = st.floats(0, 2e9)

tool_calls = st.fixed_dictionaries(
    {
        "id": names,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": names, "arguments": any_text}),
    }
)
said = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": any_text})
answered = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | any_text},
    optional={"tool_calls": st.lists(tool_calls, min_size=1, max_size=2)},
)
resulted = st.fixed_dictionaries(
    {"role": st.just("tool"), "tool_call_id": names, "content": any_text}
)
messages = st.lists(said | answered | resulted, max_size=5).map(tuple)
tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": names}, optional={"description": any_text, "parameters": metadata}
            ),
        }
    ),
    max_size=2,
).map(tuple)
model_refs = st.builds(
    ModelRef, base=names, adapter=st.none() | names, version=st.none() | st.integers(0, 9)
)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    top_k=st.integers(0, 50),
    max_tokens=st.integers(1, 4096),
    seed=st.none() | st.integers(0, 2**31),
    stop=st.lists(clean_text, max_size=2).map(tuple),
    logit_bias=st.lists(st.tuples(st.integers(0, 999), st.floats(-100, 100)), max_size=2).map(
        tuple
    ),
    top_logprobs=st.integers(0, 20),
)


def requests(episode_id: st.SearchStrategy[str | None]) -> st.SearchStrategy[Request]:
    return st.builds(
        Request,
        messages=messages,
        model=model_refs,
        tools=tools,
        sampling=samplings,
        tool_choice=st.none() | st.just("auto") | st.just({"type": "function"}),
        parallel_tool_calls=st.none() | st.booleans(),
        response_format=st.none() | metadata,
        purpose=st.sampled_from(["agent", "evaluation"]),
        workload=names,
        episode_id=episode_id,
        scenario_id=st.none() | names,
        caused_by=st.none() | names,
        metadata=metadata,
    )


ids = st.uuids().map(str)


@st.composite
def completions(draw: st.DrawFn, episode_id: str | None = None) -> Completion:
    n = draw(st.none() | st.integers(0, 4))
    exactly = None if n is None else st.integers(0, 2**31)
    return Completion(
        id=draw(ids),
        request=draw(requests(st.just(episode_id))),
        status=draw(st.sampled_from(["started", "ok", "timeout", "client_disconnected"])),
        message=draw(st.none() | answered),
        finish_reason=draw(st.sampled_from([None, "stop", "length", "tool_calls"])),
        served=draw(st.none() | model_refs),
        alias=draw(st.none() | names),
        usage=draw(
            st.builds(
                Usage,
                st.none() | st.integers(0, 9999),
                st.none() | st.integers(0, 9999),
                st.none() | st.integers(0, 9999),
                st.booleans(),
            )
        ),
        error=draw(st.none() | clean_text),
        started_at=draw(times),
        first_token_at=draw(st.none() | times),
        finished_at=draw(st.none() | times),
        prompt_ids=None if exactly is None else tuple(draw(st.lists(exactly, max_size=5))),
        output_ids=None if exactly is None else tuple(draw(st.lists(exactly, max_size=n))),
        logprobs=None if n is None else tuple(draw(st.lists(st.floats(-9, 0), max_size=n))),
        extra=draw(metadata),
    )


@st.composite
def feedback(draw: st.DrawFn, episode_id: str | None = None) -> Feedback:
    return Feedback(
        id=draw(ids),
        episode_id=draw(names) if episode_id is None else episode_id,
        name=draw(names),
        value=draw(st.none() | st.booleans() | numbers | st.integers(-9, 9) | any_text | metadata),
        source=draw(st.sampled_from(["user", "judge", "outcome"])),
        source_version=draw(clean_text),
        completion_id=draw(st.none() | names),
        comment=draw(st.none() | clean_text),
        created_at=draw(times),
    )


results = st.dictionaries(
    names,
    st.builds(
        ToolResult,
        content=any_text,
        is_error=st.booleans(),
        latency_s=st.none() | st.floats(0, 9),
        provenance=st.lists(
            st.builds(Provenance, any_text, st.sampled_from(["observed", "invented"]), any_text),
            max_size=2,
        ).map(tuple),
        doubt=st.floats(0, 1),
    ),
    max_size=2,
)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    episode_id = draw(ids)
    return Episode(
        id=episode_id,
        completions=tuple(
            draw(st.lists(completions(episode_id), max_size=3, unique_by=lambda c: c.id))
        ),
        scenario_id=draw(st.none() | names),
        workload=draw(names),
        metadata=draw(metadata),
        feedback=tuple(draw(st.lists(feedback(episode_id), max_size=2, unique_by=lambda f: f.id))),
        results=draw(results),
        tail=draw(messages),
        ended=draw(st.none() | st.sampled_from(["done", "user_left"])),
    )


scenarios = st.builds(
    Scenario,
    id=names,
    messages=messages,
    goal=metadata,
    seed=st.integers(0, 2**31),
    split=st.sampled_from(["train", "heldout"]),
    tools=tools,
    metadata=metadata,
    origin=clean_text,
)
