# SPDX-License-Identifier: Apache-2.0
"""A tiny Qwen3 with random weights, for trying things out; the tokenizer comes from a model that you have.

python scripts/convert_ckpt/tiny_qwen3.py --tokenizer Qwen/Qwen3-0.6B --output_dir tiny-qwen3
"""

from __future__ import annotations

from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, set_seed

from llamafactory.train.statistics.flags import read_flags, run_script


def main() -> None:
    """Make the model and write it beside the tokenizer."""
    flags, _ = read_flags({"tokenizer": "", "output_dir": "tiny-qwen3", "seed": 0}, {}, needed=("tokenizer",))
    tokenizer = AutoTokenizer.from_pretrained(flags["tokenizer"])
    set_seed(flags["seed"])
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=4096, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(flags["output_dir"])
    tokenizer.save_pretrained(flags["output_dir"])
    print(f"{model.num_parameters():,} parameters in {flags['output_dir']}")


if __name__ == "__main__":
    run_script(main)
