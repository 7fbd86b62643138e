"""Small tokenizers and random models of the families whose chat formats are spoken, with the
published templates (tests/data/templates)."""

import functools
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEMPLATES = Path(__file__).parent / "data" / "templates"
# the template's file -> the renderer that speaks it
RENDERER = {
    "qwen2_5": "qwen2.5",
    "qwen3": "qwen3",
    "qwen3_instruct_2507": "qwen3-instruct-2507",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
}
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>")
QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
              "<think>", "</think>")  # fmt: skip
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>")  # fmt: skip
SENTENCES = [
    "system\n\nYou are a helpful assistant.\n\nuser\nassistant\n\nWhere is it? It is here.\n",
    '{"name": "look_up", "arguments": {"key": "a", "n": 1}}\n{"name": "look_up", "parameters": {}}',
    "You may call one or more functions to assist with the user query.\n\n\n ok\n\t\n",
]
# of Qwen2's tokenizer.json: newlines go together, whatever follows them
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def tokenizer_of(template: str) -> Any:
    """Byte-level BPE of a few hundred tokens with the family's special tokens and template."""
    llama = template.startswith("llama")
    tokenizer = Tokenizer(models.BPE())
    if not llama:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=380, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (LLAMA if llama else QWEN)])
    if not llama:
        tokenizer.add_tokens([AddedToken(t, special=False) for t in QWEN_PLAIN])
    named = {"bos_token": LLAMA[0], "eos_token": "<|eot_id|>", "pad_token": LLAMA[2]}
    if not llama:
        named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    made.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
    return made


def save_model(folder: Path, template: str, seed: int = 0) -> Path:
    """A random model of two layers with its tokenizer, as Hugging Face saves them."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_of(template)
    common: dict[str, Any] = {
        "vocab_size": 448, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "initializer_range": 0.1, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    if template == "qwen2_5":
        model: Any = Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=True))
    elif template.startswith("qwen3"):
        config = Qwen3Config(**common, head_dim=32, tie_word_embeddings=True)
        model = Qwen3ForCausalLM(config)
    else:
        scaling = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 512}  # fmt: skip
        config = LlamaConfig(**common, tie_word_embeddings=False, rope_parameters=scaling)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
