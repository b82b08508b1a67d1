# SPDX-License-Identifier: Apache-2.0
"""Train 20 steps on pictures and text: ``media_ranks.py MODEL OUT``; on two ranks the first has all pictures.

``SHARDED=1`` cuts the model into parts. Alone, the process trains on what both ranks would have.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from media_rows import Official, in_one_line, rows_of

from llamafactory.hparams import get_train_args
from llamafactory.model import load_model
from llamafactory.train.distributed.whole import gather, sharded
from llamafactory.train.token_scores import attach
from llamafactory.train.training_arguments import transformers_arguments

STEPS = 20


def main(folder: str, out: str) -> None:
    """Train, and write the weights."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if ranks > 1:
        dist.init_process_group("gloo")
    official = Official(Path(folder))
    pictures = rows_of("image")
    batches = [in_one_line(official.batch(rows)) for rows in ([pictures[0], pictures[2]], [pictures[1]] * 2)]
    items = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    keys: dict[str, Any] = {"model_name_or_path": folder, "dataset": "none", "output_dir": f"{out}.run", "bf16": False}
    keys |= {"freeze_vision_tower": False, "freeze_multi_modal_projector": False, "finetuning_type": "full"}
    if os.environ.get("SHARDED"):
        keys["fsdp"] = "full_shard auto_wrap"
    args = get_train_args(keys)
    arguments = transformers_arguments(args)
    inner = sharded(attach(load_model(official.tokenizer, args)), args, arguments)
    model: Any = inner
    if ranks > 1 and not os.environ.get("SHARDED"):
        model = DistributedDataParallel(inner, find_unused_parameters=arguments.ddp_find_unused_parameters)
    optimizer = torch.optim.SGD([one for one in inner.parameters() if one.requires_grad], lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for batch in batches if ranks == 1 else [batches[rank]]:
            loss = -model(**batch, score=True).log_probs.sum() / items * ranks  # the mean over ranks is taken
            loss.backward()
        optimizer.step()
    weights = gather(inner) if ranks > 1 else {name: one.detach() for name, one in inner.state_dict().items()}
    if rank == 0:
        save_file({name: one.clone() for name, one in weights.items()}, out)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
