# SPDX-License-Identifier: Apache-2.0
"""How near a generated text is to its reference: BLEU-4, ROUGE-1/2/L and exact match, in percent."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from .errors import ConfigError

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l", "exact-match")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"\w+|[^\w\s]")


def text_scores(answer: str, reference: str, legacy: bool = False) -> dict[str, float]:
    """Return BLEU-4 (smoothing 3 of Chen & Cherry 2014), the F-measures of ROUGE-1, -2 and -L, and exact match.

    Text with Chinese or Japanese is cut into characters for BLEU (white space is none) and into words by jieba for
    ROUGE; other text into words and punctuation. An empty side scores 0. ROUGE counts an n-gram as often as it stands
    there (Lin 2004), and BLEU of an answer shorter than four units takes the orders that it has.

    Args:
        answer: What the model wrote.
        reference: What was wanted.
        legacy: Figures as LLaMA-Factory gives them: ROUGE takes each n-gram once, however often it is repeated, and
            BLEU always four orders, and counts white space among the characters.

    Raises:
        ConfigError: A package is missing.
    """
    east_asian = bool(_CJK.search(answer + reference))
    hypothesis, target = _words(answer, east_asian), _words(reference, east_asian)
    if not hypothesis or not target:
        return dict.fromkeys(NAMES, 0.0)
    characters = [list(text if legacy else "".join(text.split())) for text in (answer, reference)]
    units, wanted = characters if east_asian else (hypothesis, target)
    bleu = _bleu(units, wanted, orders=4 if legacy else min(4, len(units)))
    rouge = (_rouge_of_sets if legacy else _rouge)(hypothesis, target)
    same = answer.strip() == reference.strip()
    return {name: round(100 * float(value), 4) for name, value in zip(NAMES, (bleu, *rouge, same), strict=True)}


def _bleu(hypothesis: list[str], target: list[str], orders: int) -> float:
    try:
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    except ImportError as error:
        raise _missing(error) from error
    weights = (1 / orders,) * orders
    return float(sentence_bleu([target], hypothesis, weights, SmoothingFunction().method3))


class _Words:
    """A tokenizer for rouge_score, which is handed the words themselves."""

    @staticmethod
    def tokenize(words: list[str]) -> list[str]:
        return words


def _rouge(hypothesis: list[str], target: list[str]) -> list[float]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing(error) from error
    kinds = ["rouge1", "rouge2", "rougeL"]
    scores = RougeScorer(kinds, tokenizer=_Words()).score(target, hypothesis)
    return [scores[kind].fmeasure for kind in kinds]


def _rouge_of_sets(hypothesis: list[str], target: list[str]) -> list[float]:
    try:
        from rouge_chinese import Rouge
    except ImportError as error:
        raise _missing(error) from error
    scores = Rouge().get_scores(" ".join(hypothesis), " ".join(target))[0]
    return [scores[kind]["f"] for kind in ("rouge-1", "rouge-2", "rouge-l")]


def mean_of(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over rows."""
    return {name: round(sum(row[name] for row in scores) / max(len(scores), 1), 4) for name in NAMES}


def _words(text: str, east_asian: bool) -> list[str]:
    if not east_asian:
        return _WORD.findall(text)
    try:
        import jieba
    except ImportError as error:
        raise _missing(error) from error
    jieba.setLogLevel(logging.WARNING)
    return [word for word in jieba.cut(text) if word.strip()]


def _missing(error: ImportError) -> ConfigError:
    package = (error.name or "").split(".")[0].replace("_", "-")
    return ConfigError(f"scoring answers needs the package {package}, which is missing: pip install {package}")
