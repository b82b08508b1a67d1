# SPDX-License-Identifier: Apache-2.0
"""Answer every row of a data set with vLLM: `llamafactory-cli infer` with the flags that users of this script know.

python scripts/vllm_infer.py --model_name_or_path MODEL --template qwen --dataset alpaca_en_demo
"""

from __future__ import annotations

import json

from llamafactory.chat.batch_inference import run_infer
from llamafactory.train.statistics.flags import read_flags, run_script

SILENCE = {
    "infer_backend": "vllm", "template": "default", "dataset": "alpaca_en_demo", "dataset_dir": "data",
    "cutoff_len": 2048, "temperature": 0.95, "top_p": 0.7, "top_k": 50, "max_new_tokens": 1024,
    "repetition_penalty": 1.0, "skip_special_tokens": True, "seed": 42,
}  # fmt: skip


def main() -> None:
    """Translate the flags that are called otherwise, and answer."""
    flags, keys = read_flags({"batch_size": 1024, "pipeline_parallel_size": 1}, SILENCE, needed=("model_name_or_path",))
    settings = keys.get("vllm_config") or {}
    if isinstance(settings, str):
        settings = json.loads(settings)
    if flags["pipeline_parallel_size"] > 1:
        keys["vllm_config"] = {**settings, "pipeline_parallel_size": flags["pipeline_parallel_size"]}
    run_infer({**keys, "infer_concurrency": flags["batch_size"]})


if __name__ == "__main__":
    run_script(main)
