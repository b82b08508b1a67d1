# SPDX-License-Identifier: Apache-2.0
"""Quantizers of others, each run by the python of its own environment: ``quantization_peers.py NAME MODEL ROWS OUT``.

Rows are token ids of equal length, given as they are. Every peer writes its dequantized weights in float32 to
``OUT/weights.safetensors`` under the model's names, and the bits a weight of the blocks' layers to ``OUT/bits.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

GROUP = 64


def write(out: Path, state: dict[str, Any], bits: float) -> None:
    """Write what a peer made."""
    from safetensors.torch import save_file

    weights = {name: value.detach().float().contiguous().clone() for name, value in state.items()}
    save_file(weights, out / "weights.safetensors")
    (out / "bits.json").write_text(json.dumps(bits))


def load(model: Path) -> tuple[Any, Any]:
    """Model in its stored type, and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(model, dtype="auto"), AutoTokenizer.from_pretrained(model)


def llmcompressor(method: str, *, symmetric: bool) -> Callable[[Path, list[list[int]], Path], None]:
    """GPTQ or AWQ of llm-compressor, with its own settings for all but the format."""

    def run(folder: Path, rows: list[list[int]], out: Path) -> None:
        import torch
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
        from datasets import Dataset
        from llmcompressor import oneshot
        from llmcompressor.modifiers.awq import AWQModifier
        from llmcompressor.modifiers.gptq import GPTQModifier
        from transformers import AutoModelForCausalLM

        if not torch.cuda.is_available():  # 0.14.0.1 pins what it caches for AWQ whether there is a device or not
            torch.Tensor.pin_memory = lambda self, *args: self
        model, tokenizer = load(folder)
        weights = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP)
        scheme = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
        modifier = {"gptq": GPTQModifier, "awq": AWQModifier}[method]
        data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
        oneshot(
            model=model,
            processor=tokenizer,
            dataset=data,
            recipe=[modifier(config_groups=scheme, ignore=["lm_head"])],
            num_calibration_samples=len(rows),
            max_seq_length=len(rows[0]),
        )
        model.save_pretrained(out / "packed", save_compressed=True)
        # Read back as users do: what was smoothed and rounded is in the file.
        loaded = AutoModelForCausalLM.from_pretrained(out / "packed", dtype="auto")
        loaded(input_ids=torch.tensor([rows[0][:8]]))  # the first forward unpacks
        write(out, plain(loaded.state_dict()), 4 + (16 if symmetric else 20) / GROUP)

    return run


def autoround(*, symmetric: bool, iterations: int) -> Callable[[Path, list[list[int]], Path], None]:
    """AutoRound; its calibration and learning rate follow its own defaults."""

    def run(folder: Path, rows: list[list[int]], out: Path) -> None:
        import torch
        from auto_round import AutoRound

        model, tokenizer = load(folder)
        ids = torch.tensor(rows)
        batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(8)]
        rounder = AutoRound(
            model,
            tokenizer=tokenizer,
            bits=4,
            group_size=GROUP,
            sym=symmetric,
            iters=iterations,
            nsamples=len(rows),
            seqlen=ids.shape[1],
            batch_size=8,
            dataset=batches,
            device_map="cpu",
            enable_torch_compile=False,
        )
        quantized, _ = rounder.quantize()  # its layers then hold the rounded values
        write(out, plain(quantized.state_dict()), 4 + (16 if symmetric else 20) / GROUP)

    return run


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """Weights and biases alone, a tied head once."""
    kept = {name: value for name, value in state.items() if name.endswith((".weight", ".bias"))}
    head = kept.get("lm_head.weight")
    if head is not None and head.data_ptr() == kept["model.embed_tokens.weight"].data_ptr():
        del kept["lm_head.weight"]
    return kept


def llamacpp(folder: Path, rows: list[list[int]], out: Path) -> None:
    """Q4_K_M of ``OUT/whole.gguf``; embeddings stay float16, as with all others. Read back by the caller."""
    import ctypes

    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    settings.nthread = 2
    settings.token_embedding_type = settings.output_tensor_type = llama_cpp.GGML_TYPE_F16
    files = [str(out / name).encode() for name in ("whole.gguf", "packed.gguf")]
    if llama_cpp.llama_model_quantize(*files, ctypes.byref(settings)):
        raise SystemExit("llama_model_quantize failed")


def each_layer(rounded: Callable[[Any], Any], bits: float) -> Callable[[Path, list[list[int]], Path], None]:
    """A method that needs no calibration: every linear layer but the head by itself."""

    def run(folder: Path, rows: list[list[int]], out: Path) -> None:
        import torch

        model, _ = load(folder)
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                layer.weight.data = rounded(layer.weight.data)
        write(out, plain(model.state_dict()), bits)

    return run


def hqq(weight: Any) -> Any:
    """HQQ with its optimizer, scale and zero of 16 bits."""
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data = weight
    config = BaseQuantizeConfig(nbits=4, group_size=GROUP, axis=1)
    return HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu").dequantize()


def nf4(weight: Any) -> Any:
    """NF4 of bitsandbytes in blocks of 64, scales in float32."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return dequantize_4bit(*quantize_4bit(weight.float().contiguous(), blocksize=GROUP, quant_type="nf4"))


PEERS: dict[str, Callable[[Path, list[list[int]], Path], None]] = {
    "llmcompressor-gptq-sym": llmcompressor("gptq", symmetric=True),
    "llmcompressor-gptq-asym": llmcompressor("gptq", symmetric=False),
    "llmcompressor-awq-sym": llmcompressor("awq", symmetric=True),
    "llmcompressor-awq-asym": llmcompressor("awq", symmetric=False),
    "autoround-sym": autoround(symmetric=True, iterations=200),
    "autoround-sym-50": autoround(symmetric=True, iterations=50),
    "autoround-asym": autoround(symmetric=False, iterations=200),
    "llamacpp-q4_k_m": llamacpp,
    "hqq": each_layer(hqq, 4 + 32 / GROUP),
    "nf4": each_layer(nf4, 4 + 32 / GROUP),
}

if __name__ == "__main__":
    name, folder, rows, out = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    PEERS[name](Path(folder), json.loads(Path(rows).read_text()), Path(out))
