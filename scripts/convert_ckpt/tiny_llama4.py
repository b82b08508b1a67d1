# SPDX-License-Identifier: Apache-2.0
"""A tiny Llama 4 (text part: experts and shared expert) with random weights, for trying things out.

python scripts/convert_ckpt/tiny_llama4.py --tokenizer MODEL --output_dir tiny-llama4
"""

from __future__ import annotations

from transformers import AutoTokenizer, Llama4ForCausalLM, Llama4TextConfig, set_seed

from llamafactory.train.statistics.flags import read_flags, run_script


def main() -> None:
    """Make the model and write it beside the tokenizer."""
    flags, _ = read_flags({"tokenizer": "", "output_dir": "tiny-llama4", "seed": 0}, {}, needed=("tokenizer",))
    tokenizer = AutoTokenizer.from_pretrained(flags["tokenizer"])
    set_seed(flags["seed"])
    config = Llama4TextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, intermediate_size_mlp=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4, interleave_moe_layer_step=2,
        max_position_embeddings=4096, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Llama4ForCausalLM(config)
    model.save_pretrained(flags["output_dir"])
    tokenizer.save_pretrained(flags["output_dir"])
    print(f"{model.num_parameters():,} parameters in {flags['output_dir']}")


if __name__ == "__main__":
    run_script(main)
