# SPDX-License-Identifier: Apache-2.0
"""The texts of the page in five languages: none is missing, and placeholders are the same in all."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from llamafactory.webui.fields.fields import COMMON
from llamafactory.webui.texts import texts
from llamafactory.webui.texts.texts import LANGUAGES, missing, parts, text, unlike

FOLDER = Path(texts.__file__).parent
SCRIPTS = {"ru": r"[а-яА-Я]", "zh": r"[一-鿿]", "ko": r"[가-힣]", "ja": r"[぀-ヿ一-鿿]"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_missing(language):
    assert missing(language) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_are_the_same(language):
    assert unlike(language) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_left_over_or_stands_twice(language):
    english, other = texts._all("en"), texts._all(language)
    assert sorted(other.keys() - english.keys()) == []
    names: Counter[str] = Counter()
    for file in FOLDER.glob(f"{language}*.yaml"):
        names.update(key.value for key, _ in yaml.compose(file.read_text("utf-8")).value)
    assert {name for name, count in names.items() if count > 1} == set()


@pytest.mark.parametrize("language", SCRIPTS)
def test_most_texts_are_translated(language):
    """Names such as "DPO" stay; a sentence does not."""
    english, other = texts._all("en"), texts._all(language)
    sentences = [name for name, text in english.items() if len(text.split()) > 3 and not text.startswith("http")]
    kept = [name for name in sentences if not re.search(SCRIPTS[language], other.get(name, ""))]
    assert kept == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", COMMON)
def test_every_field_in_front_has_a_label_and_says_what_it_is(language, name):
    assert text(language, name) and text(language, name, "info")


def test_a_missing_text_falls_back_to_english(monkeypatch):
    found = {"en": {"a.b": {"label": "English", "info": "Info"}, "c": "Bare"}, "zh": {"a.b": "中文"}}
    monkeypatch.setattr(texts, "_texts", lambda language: found.get(language, {}))
    texts._all.cache_clear()
    assert text("zh", "a.b") == "中文" and text("zh", "a.b", "info") == "Info"
    assert text("zh", "any.c") == "Bare" and text("xx", "a.b") == "English" and text("zh", "nothing") == ""
    assert parts("zh", "a.b") == {"label": "中文", "info": "Info"}
    assert missing("zh") == ["a.b.info", "c.label"]
    texts._all.cache_clear()


def test_choices_have_names():
    choices = parts("zh", "train.training_stage")["choices"]
    assert [value for _, value in choices][:3] == ["sft", "rm", "ppo"] and all(label for label, _ in choices)
    assert {value for _, value in choices} == set(COMMON["train.training_stage"].choices)
    assert {value for _, value in parts("en", "eval.kind")["choices"]} == set(COMMON["eval.kind"].choices)
