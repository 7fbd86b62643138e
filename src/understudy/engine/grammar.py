"""Grammars that samples must follow, by llguidance (https://github.com/guidance-ai/llguidance).

A grammar is text in one of the library's own forms: its variant of Lark, where `%json {...}` stands
for what a JSON Schema allows and `<[7]>` for the token of that id, or its JSON. What it reads is
the bytes of the sampled tokens; a stop token may come where the grammar is complete. The
tokenizer's special tokens, and others of the form <...>, are no text: they come where their ids
stand.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_KEPT = 64  # grammars that stay compiled
_LIMITS = LLParserLimits(verbose_errors=False)


class Grammars:
    """Compiles grammars for one vocabulary; its tokens are read at the first use.

    tokenizer: a fast Hugging Face tokenizer, None where there is none. vocab: how many tokens the
    model has, often more than the tokenizer. stop_ids: what may end a sample. May be used from any
    thread.
    """

    def __init__(self, tokenizer: Any, vocab: int, stop_ids: Sequence[int]) -> None:
        self.tokenizer, self.vocab, self.stop_ids = tokenizer, vocab, list(stop_ids)
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: str) -> LLMatcher:
        """A new matcher at the grammar's beginning. Raises ValueError, in one line, for a grammar
        that cannot be read or that nothing can follow."""
        with self._lock:
            found = self._compiled.get(grammar)
            if found is None:
                found = self._compiled[grammar] = self._compile(grammar)
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return found.deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        if self._tokens is None:
            if self.tokenizer is None:
                raise ValueError("this engine was given no tokenizer, which grammars need")
            stops = self.stop_ids or self.tokenizer.eos_token_id
            self._tokens = LLTokenizer(_told(self.tokenizer), self.vocab, stops)
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=_LIMITS)
        first = matcher.compute_bitmask() if not matcher.is_error() else b""
        if matcher.is_error():
            raise ValueError(f"the grammar cannot be followed: {problem(matcher)}")
        if not np.frombuffer(first, dtype=np.uint8).any():
            raise ValueError("the grammar cannot be followed: no token begins it")
        return matcher


def _told(tokenizer: Any) -> str:
    """The tokenizer's JSON, changed so that any text can be written with it as it is: where a
    grammar leaves one text alone, the library takes the tokenizer's own ids for it, and they must
    neither be those of a special token that the text spells, nor of the text normalised."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    told = json.loads(backend.to_str())
    vocabulary = told["model"]["vocab"]  # a dictionary, or pieces with their scores
    for token in told["added_tokens"]:
        text, ident = token["content"], token["id"]
        if token["special"] or (text.startswith("<") and text.endswith(">")):
            unsaid = f"\ue000{ident}\ue001"
            token |= {"special": True, "content": unsaid}
            if isinstance(vocabulary, dict) and vocabulary.pop(text, None) is not None:
                vocabulary[unsaid] = ident
            elif isinstance(vocabulary, list) and [text] == [
                p[0] for p in vocabulary[ident : ident + 1]
            ]:
                vocabulary[ident][0] = unsaid
    if (told["decoder"] or {}).get("type") == "ByteLevel":
        told["normalizer"] = None
    return json.dumps(told)


def problem(matcher: LLMatcher) -> str:
    """What went wrong with a matcher, in one line."""
    lines = matcher.get_error().split("\n<state")[0].splitlines()
    said = [line.strip() for line in lines if " | " not in line]  # not the grammar's own lines
    text = " ".join(line for line in said if line.strip("^ "))
    if text.startswith("NoExtension"):  # the library's name of it
        return "nothing that ends follows it"
    return text if len(text) <= 300 else text[:297] + "..."
