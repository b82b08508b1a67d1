# SPDX-License-Identifier: Apache-2.0
"""Serving against LLaMA-Factory 0.9.5's API: the same YAML, model and clients, one after the other in one run.

    .venv/bin/python benchmarks/serve.py [--clients 16] [--tokens 64] [--requests 48] [--rounds 2]
    .venv/bin/python benchmarks/serve.py --one-client

Every client asks its next question when it has the answer to the last. Prints a Markdown table: tokens per second
(counted by us, with the model's tokenizer, from the texts that came), time to first token of streams (median and
worst), seconds until the server answers, and how many answers under load equal the same server's answers one by one.
Answers are greedy. Both run with their defaults; MAX_CONCURRENT of the environment reaches both.

``--one-client`` runs both servers at once and asks them in turns, one question at a time: what else the machine does
hits both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import yaml
from reference_env import make_environment
from training import CACHE, local_model
from transformers import AutoTokenizer, PreTrainedTokenizerBase

MODEL = "gpt-3.5-turbo"  # the name that both serve by default
TOPICS = (
    "rain", "rivers", "the number seven", "old maps", "bread", "the moon", "a lighthouse", "honey bees",
    "clocks", "winter", "paper boats", "a violin", "salt", "trains", "shadows", "gardens",
)  # fmt: skip
QUESTIONS = ("Write a long story about {}.", "Explain in detail what people should know about {}.", "List facts: {}.")


@dataclass
class Load:
    """What one server did: its answers by question, and how fast."""

    answers: dict[str, str]
    seconds: float
    first_tokens: list[float]


@contextmanager
def server(command: list[str | Path], config: Path, log: Path) -> Iterator[tuple[str, float]]:
    """Run ``api``; yield its address and the seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "API_VERBOSE": "0",
        "DISABLE_VERSION_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
    }
    if command[0] != sys.executable:  # there our package would hide theirs, which has the same name
        environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    with open(log, "wb") as file:
        process = subprocess.Popen([*command, "api", config], env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        while True:
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                if process.poll() is not None or time.perf_counter() - start > 300:
                    sys.exit(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", time.perf_counter() - start
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


async def load(url: str, questions: list[str], clients: int, tokens: int, stream: bool) -> Load:
    """Ask all questions, ``clients`` at a time."""
    waiting = iter(questions)
    answers: dict[str, str] = {}
    first_tokens: list[float] = []

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=1200) as client:

        async def one_client() -> None:
            for question in waiting:
                messages = [{"role": "user", "content": question}]
                keys = {"model": MODEL, "messages": messages, "max_tokens": tokens}
                if not stream:
                    answer = await client.chat.completions.create(**keys)
                    answers[question] = answer.choices[0].message.content or ""
                    continue
                asked, text = time.perf_counter(), ""
                async for chunk in await client.chat.completions.create(**keys, stream=True):
                    piece = chunk.choices[0].delta.content if chunk.choices else None
                    if piece and not text:
                        first_tokens.append(time.perf_counter() - asked)
                    text += piece or ""
                answers[question] = text

        start = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        return Load(answers, time.perf_counter() - start, first_tokens)


def make_questions(count: int) -> list[str]:
    """Different questions; when they are used up, they come again with spaces behind them."""
    every = [question.format(topic) for question in QUESTIONS for topic in TOPICS]
    return [every[i % len(every)] + " " * (i // len(every)) for i in range(count)]


def tokens_of(done: Load, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of all answers."""
    return sum(map(len, tokenizer(list(done.answers.values()), add_special_tokens=False)["input_ids"]))


def measure_one_client(
    sides: dict[str, list[str | Path]], config: Path, options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Both servers up, one question at a time to each in turn: print medians of the speeds and of their ratios."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    with ExitStack() as servers:
        urls = {
            name: servers.enter_context(server(command, config, CACHE / f"serve-{number}.log"))[0]
            for number, (name, command) in enumerate(sides.items())
        }
        for url in urls.values():
            asyncio.run(load(url, ["Say hello."], 1, 8, False))  # warm
        for number, question in enumerate(make_questions(options.alone)):
            for name in list(urls) if number % 2 else reversed(urls):  # nobody is always the first
                done = asyncio.run(load(urls[name], [question], 1, options.tokens, False))
                speeds[name].append(tokens_of(done, tokenizer) / done.seconds)
    for name, found in speeds.items():
        print(f"{name}: {statistics.median(found):.2f} tokens/s (median of {len(found)} answers, one at a time)")
    if len(speeds) == 2:
        theirs, ours = speeds.values()
        ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
        print(
            f"ours / theirs: median {statistics.median(ratios):.2f}, "
            f"quartiles {ratios[len(ratios) // 4]:.2f} and {ratios[-1 - len(ratios) // 4]:.2f}"
        )


def measure(
    name: str, command: list[str | Path], config: Path, options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase
) -> dict:
    """One server from start to end."""
    questions = make_questions(options.requests)
    with server(command, config, CACHE / "serve.log") as (url, started):
        asyncio.run(load(url, questions[:2], 1, 8, False))  # warm
        crowd = asyncio.run(load(url, questions, options.clients, options.tokens, False))
        streams = asyncio.run(load(url, questions[: options.clients], options.clients, options.tokens, True))
        alone = asyncio.run(load(url, questions[: options.alone], 1, options.tokens, False))
    same = sum(crowd.answers[question] == text for question, text in alone.answers.items())
    result = {
        "tokens/s, all clients": tokens_of(crowd, tokenizer) / crowd.seconds,
        "tokens/s, one client": tokens_of(alone, tokenizer) / alone.seconds,
        "time to first token, median s": statistics.median(streams.first_tokens),
        "time to first token, worst s": max(streams.first_tokens),
        "start until it answers, s": started,
        "answers under load equal to one by one, %": 100 * same / len(alone.answers),
    }
    print(f"{name}: {result}", file=sys.stderr)
    return result


def main() -> None:
    """Alternate both sides and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--alone", type=int, default=16, help="requests that are also asked one by one")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--one-client", action="store_true", help="only --alone questions, to both sides in turns")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    model = local_model()
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = CACHE / "serve.yaml"
    keys = {"model_name_or_path": str(model), "template": "smollm2", "infer_backend": "huggingface"}
    config.write_text(yaml.safe_dump({**keys, "do_sample": False, "infer_dtype": "float32"}))
    sides: dict[str, list[str | Path]] = {"llamafactory": [sys.executable, "-m", "llamafactory.cli"]}
    if not options.ours_only:
        reference = make_environment(CACHE) / "bin" / "llamafactory-cli"
        sides = {"LLaMA-Factory 0.9.5": [reference], **sides}
    if options.one_client:
        measure_one_client(sides, config, options, tokenizer)
        return
    runs: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, command in sides.items():
            runs[name].append(measure(name, command, config, options, tokenizer))
    print_table(runs, options)


def print_table(runs: dict[str, list[dict]], options: argparse.Namespace) -> None:
    """Medians of every side; the ratio when there are two."""
    names = list(runs)
    ratio = " | ours / theirs" if len(names) == 2 else ""
    print(f"| {options.clients} clients, {options.tokens} tokens each | {' | '.join(names)}{ratio} |")
    print("|---" * (len(names) + 1 + (len(names) == 2)) + "|")
    for label in runs[names[0]][0]:
        values = [statistics.median(run[label] for run in runs[name]) for name in names]
        end = f" | {values[1] / values[0]:.2f}" if len(values) == 2 else ""
        print(f"| {label} | {' | '.join(f'{value:.2f}' for value in values)}{end} |")


if __name__ == "__main__":
    main()
