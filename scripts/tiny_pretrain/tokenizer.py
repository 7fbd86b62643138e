"""The tiny model's tokenizer: byte-level BPE whose words, digits and JSON glue never mix.

Pre-tokens are runs of letters, single digits, and runs of everything else, spaces, quotes and
underscores included. So a word is the same tokens in prose and in JSON, `{"` or `": "` become
single tokens, and a number is its digits: few tokens, each of them often seen, copy best.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, IM_START, IM_END)
MARKERS = (
    "<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip
LETTERS = r"[\p{L}\p{M}]+"
DIGITS = r"\d"
OTHER = r"[^\p{L}\p{M}\d]+"

TEMPLATE = """
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content -%}
{%- for part in content -%}
{{- (part.text or '') if part.type == 'text' else '[' ~ part.type ~ ']' -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro said(content) -%}
{{- text(content) | replace('<|im_start|>', '< |im_start|>') | replace('<|im_end|>', '< |im_end|>')
    | replace('<|endoftext|>', '< |endoftext|>') -}}
{%- endmacro -%}
{%- macro kind(spec) -%}
{%- if spec.enum -%}{{- spec.enum | join('|') -}}
{%- elif spec.type is not defined -%}string
{%- elif spec.type is not string -%}{{- spec.type | join('|') -}}
{%- elif spec.type == 'array' -%}{{- kind(spec['items'] if spec['items'] is mapping else {}) -}}[]
{%- else -%}{{- spec.type -}}
{%- endif -%}
{%- endmacro -%}
{%- macro line(function) -%}
{%- set schema = function.parameters or {} -%}
{{- '{"name": ' + (function.name | tojson) -}}
{%- if function.description -%}
{{- ', "description": ' + (function.description | tojson) -}}
{%- endif -%}
{{- ', "parameters": {' -}}
{%- for name, spec in (schema.properties or {}).items() -%}
{%- set mark = '' if name in (schema.required or []) else '?' -%}
{{- ', ' if not loop.first -}}{{- name | tojson -}}: {{ (kind(spec) + mark) | tojson -}}
{%- endfor -%}
{{- '}}' -}}
{%- endmacro -%}
{%- set ns = namespace(rest=messages, open=false) -%}
{%- set first = messages and messages[0].role in ['system', 'developer'] -%}
{%- if first or tools -%}
{{- '<|im_start|>system\\n' -}}
{%- set system = said(messages[0].content) if first else '' -%}
{{- system -}}
{%- if tools -%}
{{- '\\n' if system -}}{{- '<tools>\\n' -}}
{%- for tool in tools -%}{{- '\\n' if not loop.first -}}{{- line(tool.function) -}}{%- endfor -%}
{{- '\\n</tools>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- if first -%}{%- set ns.rest = messages[1:] -%}{%- endif -%}
{%- for message in ns.rest -%}
{%- if message.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' -}}{{- said(message.content) -}}{{- '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if message.content -%}{{- text(message.content) -}}{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first -}}
{{- '<tool_call>\\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' -}}
{%- set given = call.function.arguments -%}
{{- (given or '{}') if given is string else given | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif message.role in ['system', 'developer', 'user'] -%}
{{- '<|im_start|>' + ('system' if message.role == 'developer' else message.role) + '\\n' -}}
{{- said(message.content) -}}{{- '<|im_end|>\\n' -}}
{%- else -%}{{- raise_exception('the chat format has no role ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""".strip()


def _pre_tokenizer() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{LETTERS}|{DIGITS}|{OTHER}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train(texts: Iterable[str], vocab: int) -> Tokenizer:
    """A tokenizer of exactly `vocab` tokens; special tokens in `texts` are ignored."""
    added = len(SPECIAL) + len(MARKERS)
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - added,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=16,
    )
    skip = re.compile("|".join(map(re.escape, SPECIAL + MARKERS)))
    base.train_from_iterator(([p for p in skip.split(t) if p] for t in texts), trainer)
    learned = json.loads(base.to_str())["model"]
    names = list(SPECIAL) + list(MARKERS)
    words = [w for w, _ in sorted(learned["vocab"].items(), key=lambda kv: int(kv[1]))]
    table = {t: i + len(names) for i, t in enumerate(words)}
    merges = [tuple(m) for m in learned["merges"]]
    placed = {**{n: i for i, n in enumerate(names)}, **table}
    final = Tokenizer(models.BPE(vocab=placed, merges=merges))
    final.pre_tokenizer = _pre_tokenizer()
    final.decoder = decoders.ByteLevel()
    final.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    final.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKERS])
    assert final.get_vocab_size() == vocab, (final.get_vocab_size(), vocab)
    return final


def save(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name every version knows
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary's strings by id."""
    table = tokenizer.get_vocab()
    return [t for t, _ in sorted(table.items(), key=lambda kv: int(kv[1]))]
