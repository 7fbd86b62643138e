"""Random models of the shipped one's shape, and a tokenizer with its special tokens."""

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 300
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>")


def make_model(family: str = "qwen3", seed: int = 0, width: int = 64, layers: int = 3) -> Any:
    """A random model with logits far enough apart to have opinions."""
    torch.manual_seed(seed)
    common = {
        "vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 1024, "initializer_range": 0.2,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    if family == "qwen3":
        config: Any = Qwen3Config(**common, head_dim=32, tie_word_embeddings=True)
        model: Any = Qwen3ForCausalLM(config)
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=True))
    else:
        scaling = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
        config = LlamaConfig(
            **common, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
            rope_parameters=scaling,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    for name, p in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, 0.2)
    return model.float().eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the chat format's tokens: a stand-in for the shipped tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in PLAIN])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")
