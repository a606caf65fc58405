"""Make a tiny random Llama model that real servers load: about 0.5 MB, the same bytes every time, no download.

Also a program: ``python tests/support/tiny_model.py DIRECTORY``. Needs only the ``tokenizers`` library, and no pytest.
Its replies are printable nonsense, and never end before ``max_tokens``.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from array import array
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SEED = 20260814
HIDDEN = 64
LAYERS = 2
HEADS = 4
KEY_VALUE_HEADS = 2
FEED_FORWARD = 128
CONTEXT = 2048
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tiny_model(directory: Path) -> Path:
    """Write the model into ``directory`` (created when missing) and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    vocabulary = tokenizer.get_vocab()
    tokenizer.save(str(directory / "tokenizer.json"))
    end, start = vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "bos_token": SPECIAL[0],
            "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[0],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": FEED_FORWARD,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "head_dim": HIDDEN // HEADS,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "vocab_size": len(vocabulary),
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": start,
            "dtype": "float32",
            "torch_dtype": "float32",
            "use_cache": True,
        },
    )
    _write_json(
        directory / "generation_config.json", {"bos_token_id": start, "eos_token_id": end, "pad_token_id": start}
    )
    _write_weights(directory / "model.safetensors", vocabulary)
    return directory


def _tokenizer() -> Tokenizer:
    """One token for each byte: no training, and every text can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def _write_weights(path: Path, vocabulary: dict[str, int]) -> None:
    """Write the safetensors format by hand (8 bytes length, JSON header, data), so that the bytes are ours."""
    numbers = random.Random(SEED)  # `random()` itself is the one sequence that Python promises to keep
    head = HIDDEN // HEADS

    def matrix(rows: int, columns: int, spread: float = 0.2) -> tuple[list[int], array[float]]:
        values = array("f", ((numbers.random() * 2 - 1) * spread for _ in range(rows * columns)))
        return [rows, columns], values

    ones = ([HIDDEN], array("f", [1.0] * HIDDEN))
    tensors = {"model.embed_tokens.weight": matrix(len(vocabulary), HIDDEN, 1.0), "model.norm.weight": ones}
    for number in range(LAYERS):
        layer = f"model.layers.{number}."
        tensors |= {
            layer + "input_layernorm.weight": ones,
            layer + "post_attention_layernorm.weight": ones,
            layer + "self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
            layer + "self_attn.k_proj.weight": matrix(KEY_VALUE_HEADS * head, HIDDEN),
            layer + "self_attn.v_proj.weight": matrix(KEY_VALUE_HEADS * head, HIDDEN),
            layer + "self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            layer + "mlp.gate_proj.weight": matrix(FEED_FORWARD, HIDDEN),
            layer + "mlp.up_proj.weight": matrix(FEED_FORWARD, HIDDEN),
            layer + "mlp.down_proj.weight": matrix(HIDDEN, FEED_FORWARD),
        }
    shape, output = matrix(len(vocabulary), HIDDEN, 1.5)
    for token, row in vocabulary.items():
        if not (token == "Ġ" or (len(token) == 1 and "!" <= token <= "~")):  # Ġ is the space
            # A row of zeros loses against the best of a hundred random ones: only printable characters come out.
            output[row * HIDDEN : (row + 1) * HIDDEN] = array("f", bytes(4 * HIDDEN))
    tensors["lm_head.weight"] = (shape, output)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dimensions, values) in tensors.items():
        size = len(values) * 4
        header[name] = {"dtype": "F32", "shape": dimensions, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            if sys.byteorder == "big":
                values.byteswap()
            file.write(values.tobytes())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
