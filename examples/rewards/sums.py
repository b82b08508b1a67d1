# SPDX-License-Identifier: Apache-2.0
"""Rewards of the examples smollm2_lora_grpo.yaml and smollm2_lora_ppo.yaml: short, correct sums.

A reward function gets lists with one entry an answer, by name: ``completions`` are the answers as text, and every
column of the dataset can be asked for, here ``output``. It returns one number for each, or None for "no opinion".
"""

import re


def correct(completions: list[str], output: list[str]) -> list[float]:
    """1 when the last number of the answer is the sum."""
    numbers = [re.findall(r"\d+", text) for text in completions]
    return [float(found[-1:] == [wanted]) for found, wanted in zip(numbers, output, strict=True)]


def short(completions: list[str]) -> list[float]:
    """1 for a number alone, less with each further character, 0 from forty on."""
    return [max(0.0, 1 - max(0, len(text.strip()) - 3) / 40) if text.strip() else 0.0 for text in completions]
