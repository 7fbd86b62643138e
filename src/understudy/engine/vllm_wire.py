"""What goes to vLLM's /v1/completions and what comes back: ids in, ids and logprobs out.

Plain functions, no network. Read from vLLM 0.32 (entrypoints/openai/completion) and held against
its answers in tests/engine/test_contract.py.
"""

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.core.openai_fields import MOST_TOP
from understudy.core.types import ModelRef, Sample, Sampling, Scores
from understudy.engine.errors import EngineError, UnknownModelError, one_line

Body = dict[str, Any]
_NEVER = -9999.0  # what it says of a token with probability 0
_NAN = "Out of range float values"  # what vLLM 0.32 says (400) where an answer holds NaN
_WORKER = "Worker failed with error '"  # and before the reason why it did not load an adapter


def completion_body(
    name: str,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    stop_ids: Sequence[int],
    grammar: str | None = None,
    stream: bool = False,
) -> Body:
    """A request for one sample. What a model's generation_config.json might set is set here, so
    that the distribution is the one that was asked for. Raises ValueError for what vLLM would take
    in another sense, or a grammar that it cannot take."""
    if sampling.top_k < 0:
        raise ValueError("top_k must be 0 (off) or more")
    if not 0 <= sampling.top_logprobs <= MOST_TOP:
        raise ValueError(f"top_logprobs must be between 0 and {MOST_TOP}")
    if not all(-100 <= bias <= 100 for _, bias in sampling.logit_bias):
        raise ValueError("logit_bias must hold numbers from -100 to 100")
    body: Body = {
        "model": name,
        "prompt": list(prompt_ids),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": grammar is None,  # a grammar's end is the tokenizer's own stop token
        "skip_special_tokens": False,  # stop strings are looked for in every token's text
        "logprobs": sampling.top_logprobs,  # 0: of the sampled token alone
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    if sampling.logit_bias:
        body["logit_bias"] = {str(i): bias for i, bias in sampling.logit_bias}
    if sampling.seed is not None:
        body["seed"] = (sampling.seed + 2**63) % 2**64 - 2**63  # as a signed 64-bit number
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if grammar is not None:
        body["structured_outputs"] = structured_outputs(grammar)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def score_body(name: str, ids: Sequence[int], top_k: int) -> Body:
    """A request for the logprobs of its prompt; vLLM draws at least one token with it."""
    return {
        "model": name,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": top_k,
        "return_token_ids": True,
    }


def structured_outputs(grammar: str) -> Body:
    """A grammar of ours (see core.protocols.Engine) in vLLM's field, for its backend `guidance`.
    Raises ValueError for llguidance's JSON of more than one grammar, which has no place there."""
    if not grammar.lstrip().startswith("{"):
        return {"grammar": grammar}  # Lark
    try:
        (only,) = json.loads(grammar)["grammars"]
        if set(only) <= {"name", "lark_grammar"}:
            return {"grammar": only["lark_grammar"]}
        if set(only) <= {"name", "json_schema"}:
            return {"json": only["json_schema"]}
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError("vLLM takes a grammar of llguidance with one Lark grammar or one JSON Schema")


def grammar_of(given: Any) -> str:
    """The other way: our form of what stands in a request's `structured_outputs`. Raises
    ValueError for what is neither a Lark grammar nor a JSON Schema."""
    lark = given.get("grammar") if isinstance(given, Mapping) else None
    schema = given.get("json") if isinstance(given, Mapping) else None
    if isinstance(lark, str):
        return lark
    if isinstance(schema, dict | bool):
        return json.dumps({"grammars": [{"json_schema": schema}]})
    raise ValueError("structured_outputs must have a grammar (Lark) or json (a JSON Schema)")


class Answer:
    """One sample as it comes from `where`: whole, or a chunk of a stream at a time.

    vLLM gives logprobs with their ids; our own server gives those of a stream with its end.
    """

    def __init__(
        self, prompt_ids: Sequence[int], model: ModelRef, where: str, top: int = 0
    ) -> None:
        self.prompt_ids, self.model, self.where = list(prompt_ids), model, where
        self.most = top  # how many of the likeliest are asked for in each place
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: str | None = None
        self.cached_tokens = 0
        self.counted: int | None = None  # completion tokens, as reported

    def add(self, data: Any) -> list[int]:
        """The ids that it adds. Raises EngineError for an error in mid-stream, ids that are
        missing, NaN, or a prompt that was not fed as it was sent."""
        if not isinstance(data, Mapping):
            raise self._fault(f"it answered {one_line(str(data))} and no completion")
        if data.get("error"):
            raise self._fault(message_of(data))
        self._count(data.get("usage"))
        fresh: list[int] = []
        for choice in data.get("choices") or ():
            ids = choice.get("token_ids")
            if not isinstance(ids, list):
                raise self._fault("its answer has no token_ids: is it vLLM, 0.10.2 or newer?")
            fed = choice.get("prompt_token_ids")
            if fed is not None and fed != self.prompt_ids:
                raise self._fault(f"it fed {len(fed)} other prompt ids than those sent")
            told = choice.get("logprobs") or {}
            self.logprobs += [_finite(v, self.model) for v in told.get("token_logprobs") or ()]
            if self.most:
                self.top += [self._likeliest(named) for named in told.get("top_logprobs") or ()]
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            fresh += ids
        self.ids += fresh
        return fresh

    def _likeliest(self, named: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
        """Of {"token_id:7": logprob}, which has the sampled one too, wherever it is; what cannot
        come has -9999 there."""
        pairs = [(int(n.removeprefix("token_id:")), v) for n, v in named.items() if v > _NEVER]
        return tuple(sorted(pairs, key=lambda p: -p[1])[: self.most])

    def _count(self, usage: Any) -> None:
        if isinstance(usage, Mapping):
            self.counted = usage.get("completion_tokens")
            details = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = details.get("cached_tokens") or 0

    def _fault(self, text: str) -> EngineError:
        return EngineError(f"{self.where}: {text}")

    def sample(self) -> Sample:
        """The whole. Raises EngineError where it is cut, or ids and logprobs are not one to one."""
        if self.finish_reason not in ("stop", "length"):
            raise self._fault(f"its answer broke off (finish_reason {self.finish_reason})")
        if not self.ids or self.counted not in (None, len(self.ids)):
            raise self._fault(f"it counts {self.counted} sampled tokens and gave {len(self.ids)}")
        if self.most and len(self.top) != len(self.ids):
            raise self._fault(
                f"it told the likeliest of {len(self.top)} tokens, not {len(self.ids)}"
            )
        if len(self.logprobs) != len(self.ids):
            raise self._fault(f"it gave {len(self.logprobs)} logprobs for {len(self.ids)} tokens")
        reason = self.finish_reason
        return Sample(
            tuple(self.ids),
            tuple(self.logprobs),
            "stop" if reason == "stop" else "length",
            self.model,
            self.cached_tokens,
            tuple(self.top),
        )


def scores_of(answer: Any, ids: Sequence[int], model: ModelRef, top_k: int, where: str) -> Scores:
    """Scores from the `prompt_logprobs` of an answer: a list with None first, then one mapping of
    id (text) to {logprob, rank} a position, the fed token's and the `top_k` likeliest.
    Raises EngineError for anything else."""
    try:
        positions = answer["choices"][0]["prompt_logprobs"][1:]
        logprobs = [
            _finite(entries[str(i)]["logprob"], model)
            for i, entries in zip(ids[1:], positions, strict=True)
        ]
        top: list[tuple[tuple[int, float], ...]] = []
        for entries in positions if top_k else ():
            pairs = [(int(i), _finite(e["logprob"], model)) for i, e in entries.items()]
            top.append(tuple(sorted(pairs, key=lambda p: -p[1])[:top_k]))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise EngineError(
            f"{where}: its answer has no prompt_logprobs for these ids ({one_line(repr(error))})"
        ) from error
    return Scores(tuple(logprobs), tuple(top))


def _finite(value: Any, model: ModelRef) -> float:
    if value is None or math.isnan(value):
        raise EngineError(f"the model {model} gave NaN; its weights are broken")
    return float(value)


def message_of(answer: Any) -> str:
    """The message of vLLM's or OpenAI's error body, or the whole of another, on one line."""
    if isinstance(answer, Mapping):
        error = answer.get("error", answer.get("detail", answer))
        answer = error.get("message", error) if isinstance(error, Mapping) else error
    return one_line(str(answer))


def refusal(status: int, answer: Any, where: str) -> EngineError | ValueError:
    """The error for an HTTP status other than 200, as the embedded engine raises it."""
    said = message_of(answer)
    if status == 404:
        return UnknownModelError(said)
    if _NAN in said:
        return EngineError(f"{where}: the model gave NaN; its weights are broken")
    if status in (400, 413, 422):
        return ValueError(said)
    if status in (401, 403):
        return EngineError(f"{where} refuses the key ({status})")
    return EngineError(f"{where} answered {status}: {said}")


def load_body(ref: ModelRef, path: str) -> Body:
    """A request to load an adapter's folder under the reference's name.

    vLLM keys cached prefixes by name and path, as they are spelled: a folder that is written anew
    and loaded again under the same name would be fed what its old weights cached. So each load
    spells its path in a way of its own, by 48 bits of `/.` and `/` behind it.
    """
    own = "".join("/." if secrets.randbits(1) else "/" for _ in range(48))
    return {"lora_name": str(ref), "lora_path": f"{Path(path).absolute()}{own}"}


def load_refusal(status: int, answer: Any, path: str, where: str) -> Exception:
    """Why an adapter was not loaded: FileNotFoundError, ValueError (corrupt, for another base,
    of too high a rank), or EngineError where the server is at fault."""
    said = message_of(answer)
    if status == 404 and isinstance(answer, Mapping) and "error" in answer:
        return FileNotFoundError(f"{where} sees no adapter in {path}")
    if status == 404:
        return EngineError(
            f"{where} loads no adapters: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        )
    if _WORKER in said:
        reason = said.split(_WORKER, 1)[1].split("', please check", 1)[0]
        return ValueError(f"the adapter in {path} is not one for this base: {reason}")
    return refusal(status, answer, where)
