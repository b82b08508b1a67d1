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


def text_scores(answer: str, reference: str) -> dict[str, float]:
    """Return BLEU-4 (smoothing 3 of Chen & Cherry 2014), the F-measures of ROUGE-1, -2 and -L, and exact match.

    Text with Chinese or Japanese is cut into characters for BLEU and into words by jieba for ROUGE; other text into
    words and punctuation. An empty side scores 0.

    Raises:
        ConfigError: A package is missing.
    """
    try:
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
        from rouge_chinese import Rouge
    except ImportError as error:
        raise _missing(error) from error
    east_asian = bool(_CJK.search(answer + reference))
    hypothesis, target = _words(answer, east_asian), _words(reference, east_asian)
    if not hypothesis or not target:
        return dict.fromkeys(NAMES, 0.0)
    units = (list(answer), list(reference)) if east_asian else (hypothesis, target)
    bleu = sentence_bleu([units[1]], units[0], smoothing_function=SmoothingFunction().method3)
    rouge = Rouge().get_scores(" ".join(hypothesis), " ".join(target))[0]
    same = answer.strip() == reference.strip()
    values = (bleu, rouge["rouge-1"]["f"], rouge["rouge-2"]["f"], rouge["rouge-l"]["f"], same)
    return {name: round(100 * float(value), 4) for name, value in zip(NAMES, values, strict=True)}


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
    package = {"rouge_chinese": "rouge-chinese"}.get(error.name or "", error.name)
    return ConfigError(
        f"scoring answers needs the package {package}, which is missing: pip install nltk jieba rouge-chinese"
    )
