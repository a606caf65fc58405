from __future__ import annotations

import json
from pathlib import Path

from safetensors import deserialize
from tokenizers import Tokenizer

from support.tiny_model import make_tiny_model


def test_the_model_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    first, second = make_tiny_model(tmp_path / "a"), make_tiny_model(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert sum(path.stat().st_size for path in first.iterdir()) < 500_000
    config = json.loads((first / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(first / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    text = "Grüße, 世界 {}\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|im_end|>").ids == [config["eos_token_id"]]
    shapes = {name: tensor["shape"] for name, tensor in deserialize((first / "model.safetensors").read_bytes())}
    assert shapes["lm_head.weight"] == [config["vocab_size"], config["hidden_size"]]
    assert len(shapes) == 3 + 9 * config["num_hidden_layers"]
