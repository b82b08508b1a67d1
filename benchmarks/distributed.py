# SPDX-License-Identifier: Apache-2.0
"""Several processes: memory of a rank, what a save costs a step, the size of a checkpoint, the time to the first step.

    python benchmarks/distributed.py [memory save size start] [--tiny]

Everything runs through the command line's own path on random models, on the CPU with gloo. ``--tiny`` makes the models
small, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from streamed_base import Memory

NOTES = "BENCHMARK_NOTES"  # folder where each rank writes what it saw


def make_model(folder: Path, layers: int, hidden: int, dtype: str, quiet: bool = False) -> int:
    """Write a random Llama with the tokenizer of words that the rows are made of; return how many weights it has."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *(f"w{n}" for n in range(5000))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    weights = sum(one.numel() for one in model.parameters())
    if not quiet:
        print(f"model: {weights / 1e6:.0f}M weights, {dtype}", flush=True)
    return weights


def make_rows(folder: Path, length: int) -> Path:
    """Write rows of so many words."""
    draw, path = random.Random(0), folder / f"rows-{length}.json"
    path.write_text(json.dumps([{"text": " ".join(f"w{draw.randrange(5000)}" for _ in range(length))}] * 64))
    return path


def worker(keys: dict[str, Any]) -> None:
    """Train, and note the peak of memory and when each step began."""
    import torch
    from transformers import TrainerCallback

    from llamafactory.train.tuner import run_exp

    begun: list[float] = []
    held = Memory()
    held.start()

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(time.time())

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(time.time())

    run_exp(keys, [Watch()])
    own, everything = (most / 1e6 for most in held.most)
    on_device = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
    place = Path(os.environ[NOTES]) / f"{os.environ.get('RANK', '0')}.json"
    place.write_text(json.dumps({"own_mb": own, "all_mb": everything, "device_mb": on_device, "begun": begun}))


def run(keys: dict[str, Any], ranks: int, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Train on ranks; return when they were started and what each noted."""
    place = Path(tempfile.mkdtemp(dir=folder))
    given = {
        "stage": "pt", "template": "empty", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
        "use_cpu": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "packing": False,
        "output_dir": str(place / "run"), **keys,
    }  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", NOTES: str(place)}
    started = time.time()
    done = subprocess.run(
        [sys.executable, *launcher, __file__, "--worker", json.dumps(given)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return started, [json.loads(path.read_text()) for path in sorted(place.glob("*.json"))]


def memory(folder: Path, layers: int, hidden: int) -> dict[str, float]:
    """Peak of one rank in bfloat16 with AdamW: plain copies on two ranks, a fourth on each of four.

    *own* is what is the process's own (RssAnon), *all* has the pages of mapped files too, here of the weights' file,
    which the kernel takes back when memory is short.
    """
    place = folder / "large"
    make_model(place, layers, hidden, "bfloat16")
    rows = make_rows(folder, 30)
    keys = {"model_name_or_path": str(place), "dataset": str(rows), "cutoff_len": 32, "max_steps": 3}
    keys |= {"finetuning_type": "full", "pure_bf16": True}
    peaks: dict[str, float] = {}
    for name, ranks, more in (("ddp", 2, {}), ("fsdp", 4, {"fsdp": "full_shard"})):
        _, notes = run(keys | more, ranks, folder)
        peaks |= {f"{name}_{what}_mb": round(max(note[f"{what}_mb"] for note in notes)) for what in ("own", "all")}
    return peaks | {
        f"fsdp_of_ddp_{what}": round(peaks[f"fsdp_{what}_mb"] / peaks[f"ddp_{what}_mb"], 3) for what in ("own", "all")
    }


def save(folder: Path, layers: int, hidden: int) -> dict[str, float]:
    """How long steps with a save take, of those without; steps are long enough to write a checkpoint meanwhile."""
    place = folder / "middle"
    make_model(place, layers, hidden, "float32")
    rows = make_rows(folder, 250)
    keys = {"model_name_or_path": str(place), "dataset": str(rows), "cutoff_len": 256, "finetuning_type": "full"}
    keys |= {"bf16": False, "per_device_train_batch_size": 4, "max_steps": 16, "save_strategy": "steps"}
    keys |= {"save_steps": 4, "save_total_limit": 1}
    found = {}
    for name, beside in (("sync", False), ("async", True)):
        _, [note] = run(keys | {"async_save": beside}, 0, folder)
        seconds = [after - before for before, after in zip(note["begun"], note["begun"][1:], strict=False)][1:-1]
        saves, after, others = seconds[2::4], seconds[3::4], seconds[0::4] + seconds[1::4]
        plain = statistics.median(others)
        found |= {
            f"{name}_step_s": round(plain, 2),
            f"{name}_saving_step": round(statistics.median(saves) / plain, 3),
            f"{name}_step_after": round(statistics.median(after) / plain, 3),
        }
    return found


def size(folder: Path, layers: int, hidden: int) -> dict[str, float]:
    """Bytes of a LoRA checkpoint of two ranks, of those of the adapter: tensors alone, and all files."""
    place = folder / "small"
    make_model(place, layers, hidden, "float32")
    rows = make_rows(folder, 30)
    keys = {"model_name_or_path": str(place), "dataset": str(rows), "cutoff_len": 32, "max_steps": 2, "bf16": False}
    found = {}
    for name, more in (("ddp", {}), ("fsdp", {"fsdp": "full_shard"})):
        left = folder / f"size-{name}"
        keys |= {"save_strategy": "steps", "save_steps": 2, "lora_rank": 16, "output_dir": str(left)}
        run(keys | more, 2, folder)
        saved = [path for path in (left / "checkpoint-2").rglob("*") if path.is_file()]
        adapter = (left / "checkpoint-2" / "adapter_model.safetensors").stat().st_size
        texts = sum(path.stat().st_size for path in saved if path.suffix in (".json", ".md", ".jinja"))
        whole = sum(path.stat().st_size for path in saved)
        found |= {
            f"{name}_adapter_mb": round(adapter / 1e6, 2),
            f"{name}_tensors_of_adapter": round((whole - texts) / adapter, 2),
            f"{name}_all_of_adapter": round(whole / adapter, 2),
        }
    return found


def start(folder: Path, layers: int, hidden: int) -> dict[str, float]:
    """Seconds from the start of the launcher until the first step begins, on the slowest rank; the median of three."""
    place = folder / "start"
    make_model(place, layers, hidden, "float32")
    rows = make_rows(folder, 30)
    keys = {"model_name_or_path": str(place), "dataset": str(rows), "cutoff_len": 32, "max_steps": 1, "bf16": False}
    seconds = {}
    for ranks in (1, 2):
        times = []
        for _ in range(3):
            started, notes = run(keys, ranks, folder)
            times.append(max(note["begun"][0] for note in notes) - started)
        seconds[f"start_{ranks}_s"] = round(statistics.median(times), 1)
    return {**seconds, "two_of_one": round(seconds["start_2_s"] / seconds["start_1_s"], 2)}


PARTS: dict[str, tuple[Any, int, int]] = {
    "memory": (memory, 26, 1024), "save": (save, 8, 512), "size": (size, 12, 512), "start": (start, 12, 512),
}  # fmt: skip


def main() -> None:
    """Measure what is asked for and print it as JSON."""
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    for name in given.parts or PARTS:
        measure, layers, hidden = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), *((2, 64) if given.tiny else (layers, hidden)))
        print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()
