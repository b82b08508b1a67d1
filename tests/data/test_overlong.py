# SPDX-License-Identifier: Apache-2.0
"""Long samples: properties over random conversations, whose every token is a number of its own."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.data.messages import Message, Origin, Sample, Segment
from llamafactory.data.prepare.overlong import fit, fit_text
from llamafactory.data.processor import PretrainProcessor, SupervisedProcessor
from llamafactory.extras.errors import ConfigError


class Chat(NamedTuple):
    """A conversation as a template would encode it, and each trained answer as (its tokens, its end-of-turn token)."""

    sample: Sample
    segments: list[Segment]
    answers: list[tuple[list[int], int]]


def make_chat(turns: list[tuple[str, int, float]]) -> Chat:
    numbers = count(1000)
    take = lambda n: [next(numbers) for _ in range(n)]  # noqa: E731
    segments, answers = [Segment(take(1), 0.0, -1)], []
    for index, (role, length, weight) in enumerate(turns):
        if role == "assistant":
            segments.append(Segment(take(3), 0.0, index))
            content, end = take(length), take(1)
            segments += [Segment(content + end, weight, index), Segment(take(1), 0.0, index)]
            if weight:
                answers.append((content, end[0]))
        else:
            segments.append(Segment(take(length + 4), 0.0, index))
    messages = tuple(Message.of(role, "x") for role, _, _ in turns)  # type: ignore[arg-type]
    return Chat(Sample(messages, origin=Origin("set", "file.jsonl", 7)), segments, answers)


lengths = st.one_of(st.integers(0, 12), st.integers(0, 200))
exchange = st.tuples(
    st.tuples(st.sampled_from(["user", "tool"]), lengths, st.just(0.0)),
    st.tuples(st.just("assistant"), lengths, st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0])),
)
system = st.lists(st.tuples(st.just("system"), lengths, st.just(0.0)), max_size=1)
chats = st.tuples(system, st.lists(exchange, max_size=6)).map(
    lambda parts: make_chat([*parts[0], *(turn for pair in parts[1] for turn in pair)] or [("user", 3, 0.0)])
)


def tokens(row: list[Segment]) -> list[int]:
    return [token for segment in row for token in segment.ids]


@settings(deadline=None, max_examples=300)
@given(chats, st.integers(2, 160), st.sampled_from(["truncate", "split", "drop"]))
def test_rows_fit_and_answers_end_only_where_they_end(chat: Chat, cutoff: int, rule: Any) -> None:
    total = len(tokens(chat.segments))
    rows, lost = fit(chat.segments, chat.sample.messages, cutoff, rule, None)
    if total <= cutoff:
        assert rows == [chat.segments]
        assert lost == 0
        return
    if rule == "drop":
        assert (rows, lost) == ([], total)
    for row in rows:
        ids = tokens(row)
        assert len(ids) <= cutoff
        assert ids == sorted(set(ids)), "in order, nothing twice"
        trained = {token for segment in row if segment.weight > 0 for token in segment.ids}
        for content, end in chat.answers:
            if end in trained:
                assert trained.issuperset(content), "an answer that was cut must not seem to end"
            if content and trained.issuperset(content) and content[-1] != ids[-1]:
                assert end in trained, "a whole answer keeps its end-of-turn token"
    if rule == "truncate":
        assert lost == total - len(tokens(rows[0]))
    if rule == "split":
        taught = [token for row in rows for segment in row if segment.weight > 0 for token in segment.ids]
        assert len(taught) == len(set(taught)), "repeated context is not trained again"
        assert lost >= total - len({token for row in rows for token in tokens(row)})


@settings(deadline=None, max_examples=150)
@given(st.lists(chats, max_size=6), st.integers(2, 120), st.sampled_from(["truncate", "split", "drop"]))
def test_the_count_is_whole_and_every_row_trains(batch: list[Chat], cutoff: int, rule: str) -> None:
    template = SimpleNamespace(
        encode_batch=lambda samples, **_: [by_id[id(sample)] for sample in samples], rewritten=lambda _: frozenset()
    )
    by_id = {id(chat.sample): chat.segments for chat in batch}
    data: Any = SimpleNamespace(
        cutoff_len=cutoff, overlong=rule, train_on_prompt=False, mask_history=False, thoughts="mask"
    )
    encoded = SupervisedProcessor().encode([chat.sample for chat in batch], template, None, data)  # type: ignore[arg-type]
    columns, tally = encoded.columns, encoded.tally
    assert tally.rows == len(batch) == tally.kept + tally.cut + tally.split + tally.dropped
    assert tally.unanswered == sum(all(m.role != "assistant" for m in chat.sample.messages) for chat in batch)
    assert (tally.rows_out, tally.tokens_out) == (len(columns["input_ids"]), sum(map(len, columns["input_ids"])))
    for ids, labels, lens in zip(columns["input_ids"], columns["labels"], columns["seq_lens"], strict=True):
        assert len(ids) == len(labels) == sum(lens) <= cutoff
        assert labels[0] == -100
        assert any(label != -100 for label in labels)
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))


def test_truncate_cuts_the_question_in_its_middle_before_the_answer() -> None:
    chat = make_chat([("user", 100, 0.0), ("assistant", 10, 1.0)])
    (row,), lost = fit(chat.segments, chat.sample.messages, 60, "truncate", None)
    content, end = chat.answers[0]
    ids = tokens(row)
    question = chat.segments[1].ids
    assert ids[-12:] == [*content, end, end + 1]
    assert (ids[1], ids[1 + 43]) == (question[0], question[-1])
    assert (len(ids), lost) == (60, len(tokens(chat.segments)) - 60)


def test_truncate_keeps_whole_turns_cuts_one_and_drops_the_rest() -> None:
    chat = make_chat([("user", 5, 0.0), ("assistant", 5, 1.0), ("user", 5, 0.0), ("assistant", 90, 1.0),
                      ("user", 5, 0.0), ("assistant", 5, 1.0)])  # fmt: skip
    (row,), _ = fit(chat.segments, chat.sample.messages, 64, "truncate", None)
    trained = {token for segment in row if segment.weight for token in segment.ids}
    (first, first_end), (second, second_end), (third, _) = chat.answers
    assert trained.issuperset([*first, first_end])
    assert 0 < len(trained.intersection(second)) < len(second)
    assert second_end not in trained
    assert not trained.intersection(third)


def test_with_masked_history_the_trained_end_stays_and_history_fills_the_room() -> None:
    chat = make_chat([("system", 5, 0.0)] + [("user", 20, 0.0), ("assistant", 10, 0.0)] * 3
                     + [("user", 20, 0.0), ("assistant", 10, 1.0)])  # fmt: skip
    (row,), _ = fit(chat.segments, chat.sample.messages, 100, "truncate", None)
    ids = set(tokens(row))
    content, end = chat.answers[0]
    assert ids.issuperset([*content, end, *chat.segments[1].ids])
    assert [segment.message for segment in row if segment.message > 0] == [5, 6, 6, 6, 7, 8, 8, 8]


def test_split_makes_rows_at_turns_and_repeats_the_system_text() -> None:
    chat = make_chat([("system", 4, 0.0)] + [("user", 20, 0.0), ("assistant", 20, 1.0)] * 4)
    rows, lost = fit(chat.segments, chat.sample.messages, 120, "split", None)
    system = chat.segments[1].ids
    assert (len(rows), lost) == (3, 0), "half of a row at most is repetition, here one turn"
    assert all(tokens(row)[1:9] == system for row in rows)
    taught = [token for row in rows for segment in row if segment.weight for token in segment.ids]
    assert taught == [token for content, end in chat.answers for token in [*content, end]]


def test_error_names_file_and_row() -> None:
    chat = make_chat([("user", 50, 0.0), ("assistant", 50, 1.0)])
    with pytest.raises(ConfigError, match=r"file\.jsonl, row 7: 110 tokens, cutoff_len is 20"):
        fit(chat.segments, chat.sample.messages, 20, "error", chat.sample.origin)


@given(st.integers(0, 300), st.integers(2, 40))
def test_running_text_splits_into_chunks_that_join_to_the_text(length: int, cutoff: int) -> None:
    ids = list(range(length))
    rows, lost = fit_text(ids, cutoff, "split", None)
    assert [token for row in rows for token in row] == ids[: length - lost]
    assert lost == (length > cutoff and length % cutoff == 1)
    assert all(len(row) <= cutoff for row in rows)
    assert fit_text(ids, cutoff, "truncate", None) == ([ids[:cutoff]], max(length - cutoff, 0))


def test_pretraining_ends_each_document_once(tokenizer: Any) -> None:
    data: Any = SimpleNamespace(cutoff_len=16, overlong="split")
    texts = ["short", "a text that is long enough to need more than one row of sixteen tokens, surely", ""]
    samples = [Sample((Message.of("user", text),)) for text in texts]
    encoded = PretrainProcessor().encode(samples, None, tokenizer, data)  # type: ignore[arg-type]
    rows = encoded.columns["input_ids"]
    end = tokenizer.eos_token_id
    assert [token for row in rows for token in row] == [
        token for text in texts if text for token in [*tokenizer(text)["input_ids"], end]
    ]
    assert encoded.columns["labels"][0] == [-100, *rows[0][1:]]
    assert (encoded.tally.kept, encoded.tally.split, encoded.tally.untrained) == (1, 1, 1)
