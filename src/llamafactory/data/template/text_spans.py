# SPDX-License-Identifier: Apache-2.0
"""Neighbouring text that is trained alike, and where its borders fall among the tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from ..messages import Medium, Message, Segment
from .base import GLUE, Piece, TextSpan

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

Cut = Callable[[Sequence[TextSpan]], list[list[int]]]

# Put into one turn of a conversation, to see where that turn stands in the text.
SENTINEL = "q7Zx9Wk3"
_QUESTION = SENTINEL[::-1]
# Before an answer: white space whose tokens depend on what follows it in some tokenizers.
_UNSURE = re.compile(r"(?:[^\S\n]|\s\s)\Z")
_TAIL = 8  # characters that hold such white space and what stands before it
# Around special tokens that stand in data; private-use characters that no text should hold.
_MARKS = ("\ue0f0", "\ue0f1")


def with_turn_breaks(pieces: list[Piece]) -> list[Piece]:
    """Mark the line breaks behind the end of each trained turn as part of it."""
    ends = {piece.message: number for number, piece in enumerate(pieces) if piece.trained}
    out: list[Piece] = []
    for number, piece in enumerate(pieces):
        ended = pieces[number - 1] if number and not piece.trained else None
        if ended and ended.trained and ends[ended.message] == number - 1 and piece.literal:
            rest = piece.text.lstrip("\n")
            out.append(ended._replace(text=piece.text[: len(piece.text) - len(rest)], literal=True))
            piece = piece._replace(text=rest)
        out.append(piece)
    return out


def weigh(
    pieces: list[Piece], messages: Sequence[Message], train_on_prompt: bool, mask_history: bool
) -> list[tuple[Piece, float]]:
    """Give each piece its loss weight."""
    context = 1.0 if train_on_prompt else 0.0
    trained, calls, untrained = [], [], []
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=GLUE)
    for index, message in enumerate(messages):
        given = message.weight
        default = 0.0 if mask_history and index != last else 1.0
        trained.append(default if given is None else given)
        of_calls = given if message.call_weight == "as the text" else message.call_weight
        calls.append(default if of_calls is None else of_calls)
        untrained.append(context if given is None or message.role == "assistant" else given)
    for weights in (trained, calls, untrained):
        weights.append(context)  # GLUE == -1
    return [
        (piece, 0.0 if piece.medium else kinds[piece.message])
        for piece in pieces
        for kinds in [untrained if not piece.trained else calls if piece.is_call else trained]
    ]


def answer_texts(pieces: Sequence[Piece], index: int, ends: Sequence[str]) -> tuple[str, str]:
    """What stands before the words of an answer, and these words without what ends the turn."""
    places = [number for number, piece in enumerate(pieces) if piece.trained and piece.message == index]
    if not places:
        return "", ""
    first, last = places[0], places[-1] + 1
    words = "".join([piece.text for piece in pieces[first:last]])
    for end in ends:
        words = words.removesuffix(end)
    return "".join([piece.text for piece in pieces[:first]]), words


def begins_answer(piece: Piece, weight: float, begun: set[int]) -> bool:
    """Whether a trained answer begins with a piece; ``begun`` holds the messages whose answers did before."""
    if not piece.trained or weight <= 0 or piece.message in begun:
        return False
    begun.add(piece.message)
    return True


def join(pieces: Iterable[tuple[Piece, float]], begun: set[int] | None = None) -> list[TextSpan]:
    """Join neighbours of the same weight and message, but not across the start of a trained answer.

    Args:
        pieces: With their weights.
        begun: Messages whose answers began in earlier pieces; those that begin in these are added.
    """
    begun = set() if begun is None else begun
    spans: list[tuple[list[str], float, int, bool, Medium | None]] = []
    for piece, weight in pieces:
        if not piece.text:
            continue
        begins = begins_answer(piece, weight, begun)
        if spans and not begins and spans[-1][1:3] == (weight, piece.message) and spans[-1][4] == piece.medium:
            spans[-1][0].append(piece.text)
        else:
            spans.append(([piece.text], weight, piece.message, begins, piece.medium))
    return [
        TextSpan("".join(texts), weight, message, begins, medium) for texts, weight, message, begins, medium in spans
    ]


def merge(segments: list[Segment]) -> list[Segment]:
    """Join neighbouring segments of the same weight and message."""
    return [
        Segment([token for segment in group for token in segment.ids], weight, message, medium)
        for (weight, message, medium), group in groupby(segments, key=lambda segment: segment[1:])
    ]


def to_segments(found: Iterable[list[int]], spans: Sequence[TextSpan]) -> list[Segment]:
    """The tokens of spans as segments; spans without a token of their own are left out."""
    return merge(
        [Segment(ids, span.weight, span.message, span.medium) for ids, span in zip(found, spans, strict=True) if ids]
    )


def cut_apart(cut: Cut, spans: Sequence[TextSpan], starts: Sequence[int]) -> list[list[int]]:
    """The tokens of each span, where no token may reach across some borders.

    Args:
        cut: Gives the tokens of each of some spans that are encoded as one text.
        spans: Neighbours.
        starts: Numbers of the spans before which a token must end.
    """
    found: list[list[int]] = []
    for start, end in pairwise([0, *starts, len(spans)]):
        found += cut_inside(cut, spans[start:end], "\na") if start else cut(spans[start:end])
    return found


def cut_inside(cut: Cut, spans: Sequence[TextSpan], leads: str = "\n") -> list[list[int]]:
    """The tokens of each span of a part that does not begin the text.

    It is encoded after a character that is then dropped: some tokenizers put a space before the first word of a text.

    Args:
        cut: As for :func:`cut_apart`.
        spans: Neighbours.
        leads: What to try; a line break grows together with another one.
    """
    spans = [span._replace(begins=span.begins and number > 0) for number, span in enumerate(spans)]
    for lead in leads:
        (alone,), (first, *found) = (cut([TextSpan(lead, -1.0, GLUE), *more]) for more in ((), spans))
        if first == alone:  # else it grew together with the text
            return found
    return cut(spans)


def cut_at_answers(backend: Tokenizer, encoding: Encoding, spans: Sequence[TextSpan]) -> list[list[int]]:
    """The tokens of each span, out of the encoding of all; parts are encoded again where an answer needs that."""
    text, position, blurred = text_of(spans), 0, []
    for number, span in enumerate(spans):
        if span.begins and number and _is_blurred(backend, encoding, text, position):
            blurred.append(number)
        position += len(span.text)
    if not blurred:
        return cut_ids(encoding, spans)

    def cut(spans: Sequence[TextSpan]) -> list[list[int]]:
        return cut_ids(backend.encode(text_of(spans), add_special_tokens=False), spans)

    return cut_apart(cut, spans, blurred)


def text_of(spans: Sequence[TextSpan]) -> str:
    """The text of neighbouring spans."""
    return "".join([span.text for span in spans])


def _is_blurred(backend: Tokenizer, encoding: Encoding, text: str, position: int) -> bool:
    """Whether the tokens before an answer, which begins at ``position``, may be others than those of its prompt."""
    token = _token_at(encoding, position, 0)
    reach = encoding.token_to_chars(token) if token < len(encoding.ids) else None
    if reach is not None and reach[0] < position:
        return True
    tail = text[max(0, position - _TAIL) : position]
    return _UNSURE.search(tail) is not None and (
        text[position : position + 1].isspace() or _depends_on_more(backend, tail)
    )


def _depends_on_more(backend: Tokenizer, tail: str) -> bool:
    """Whether white space at the end of a text has other tokens when a word follows."""
    alone, followed = (backend.encode(text, add_special_tokens=False).ids for text in (tail, f"{tail}a"))
    return bool(followed[: len(alone)] != alone)


def cut_ids(encoding: Encoding, spans: Sequence[TextSpan]) -> list[list[int]]:
    """The tokens of each span.

    A token across a border belongs to the trained side, as in the assistant mask of transformers.
    """
    ids = encoding.ids
    borders, position = [0], 0
    for span in spans[:-1]:
        position += len(span.text)
        end = max(borders[-1], _token_at(encoding, position, borders[-1]))
        reach = encoding.token_to_chars(end) if end < len(ids) else None
        if reach is not None and reach[0] < position and span.weight:
            end += 1
        borders.append(end)
    return [ids[start:end] for start, end in pairwise([*borders, len(ids)])] if spans else []


def _token_at(encoding: Encoding, position: int, start: int) -> int:
    """The first token that holds a character at or after a position."""
    token = encoding.char_to_token(position)
    if token is not None:
        return token
    # A normalizer dropped the character, or the tokenizer does not count white space as part of its token.
    last = encoding.offsets[-1][1] if encoding.offsets else 0
    while token is None and position < last:
        position += 1
        token = encoding.char_to_token(position)
    token = len(encoding.ids) if token is None else token
    while token > start and encoding.offsets[token - 1][0] >= position:
        token -= 1
    return token


def cut_by_prefix(tokenizer: PreTrainedTokenizerBase, spans: Sequence[TextSpan]) -> list[list[int]]:
    """The same for tokenizers that do not tell where a token stands: compare with the ids of each prefix."""
    ids = tokenizer.encode(text_of(spans), add_special_tokens=False)
    out: list[list[int]] = []
    for number, span in enumerate(spans, start=1):
        start, end = sum(map(len, out)), len(ids)
        if number < len(spans):
            prefix = tokenizer.encode(text_of(spans[:number]), add_special_tokens=False)
            same = next((i for i, (a, b) in enumerate(zip(prefix, ids, strict=False)) if a != b), len(prefix))
            if spans[number].begins and same < len(prefix):
                return cut_apart(partial(cut_by_prefix, tokenizer), spans, [number])
            end = max(start, min(same + (same < len(prefix) and span.weight > 0), len(ids)))
        out.append(ids[start:end])
    return out


def to_last(special: re.Pattern[str], text: str) -> str:
    """The text up to the end of its last special token; all of it if there is none."""
    last = list(special.finditer(text))
    return text[: last[-1].end()] if last else text


def turn_ends(
    render: Callable[[list[dict[str, Any]], bool], str], special: re.Pattern[str], added: Iterable[str], bos: str
) -> tuple[str, str] | None:
    """What ends an assistant turn, up to its last special token: one before a question, and the last of all.

    Some templates write the token only behind the last message. There the model learns it, or it never stops.

    Args:
        render: The text of a conversation, perhaps with the generation prompt.
        special: Special tokens.
        added: All added tokens.
        bos: What begins a text.

    Returns:
        Both ends; ``None`` where the words of an answer are not in the text just once.
    """
    chat = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": SENTINEL}]
    tails = []
    for turns in (chat, [*chat, chat[0]]):
        head, found, tail = render(turns, False).partition(SENTINEL)
        if not found or SENTINEL in tail:
            return None
        tails.append(tail)
    last, followed = tails
    common, question = _common_end(added, head, last, followed), render(chat[:1], False)
    if not special.search(common) and special.search(last):
        # The last answer ends otherwise than those before it, which may end as questions do.
        closing = to_last(special, question.rpartition(_QUESTION)[2])
        return (closing if special.search(closing) and followed.startswith(closing) else common), to_last(special, last)
    common = to_last(special, common)
    if render(chat, True).partition(SENTINEL)[2] == last:  # it asks for an answer unasked
        common = _without_opening(special, common, question.removeprefix(bos))
    return common, common if special.search(common) else last


def _common_end(tokens: Iterable[str], head: str, last: str, followed: str) -> str:
    """What the last answer and one before a question have behind their words alike.

    It is cut neither inside a token nor inside the text that opens a question, as in ``head``.
    """
    end = len(common_start(last, followed))
    added = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
    across = (found.start() for text in (last, followed) for found in added.finditer(text) if found.end() > end)
    end = min([end, *across])
    first, before = (text.partition(_QUESTION)[0][::-1] for text in (head, followed))
    opening = len(before) - len(common_start(before, first))
    # All that stands behind the last answer is its end, and so is a token; white space may be of either.
    certain = end == len(last) or added.search(last[:end]) or not last[opening:end].strip()
    return last[: end if certain else opening]


def _without_opening(special: re.Pattern[str], end: str, first: str) -> str:
    """What ends a turn, without the token that opens the next one, as it opens the ``first`` turn of a conversation."""
    sizes = (size for size in range(len(first), 0, -1) if end.endswith(first[:size]))
    return next((rest for size in sizes if special.search(rest := end[:-size])), end)


def agreed_end(special: re.Pattern[str], text: str, prompt: str, least: int) -> int | None:
    """Where a text leaves its prompt: behind the last special token or line that both have, from ``least`` on."""
    common = len(common_start(text, prompt))
    ends = [least, *(found.end() for found in special.finditer(prompt, least)), prompt.rfind("\n", least, common) + 1]
    return max((end for end in ends if least <= end <= common), default=None)


def common_start(a: str, b: str) -> str:
    """What two texts begin with."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def mark(value: Any, special: re.Pattern[str]) -> Any:
    """Put marks around special tokens in every text of a JSON value."""
    if isinstance(value, str):
        return special.sub(rf"{_MARKS[0]}\g<0>{_MARKS[1]}", value)
    if isinstance(value, dict):
        return {key: mark(item, special) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mark(item, special) for item in value]
    return value


def split_marked(
    text: str, spans: list[tuple[int, int, int]], calls: Mapping[int, int], opening: Sequence[Piece] = ()
) -> Iterator[Piece]:
    """Cut the text into pieces at the spans and where calls start; take the marks around special tokens out.

    ``opening`` stands before the last span.
    """
    position = 0
    for place, (start, end, message) in enumerate([*spans, (len(text), len(text), GLUE)]):
        middle = min(max(calls.get(message, end), start), end)
        before = opening if place == len(spans) - 1 else ()
        stretches = (
            (text[position:start], GLUE, False, False),
            (text[start:middle], message, True, False),
            (text[middle:end], message, True, True),
        )
        for turn, (stretch, index, trained, is_call) in enumerate(stretches):
            yield from before if turn == 1 else ()
            for number, part in enumerate(re.split(f"{_MARKS[0]}(.*?){_MARKS[1]}", stretch, flags=re.DOTALL)):
                if part:
                    yield Piece(part, index, trained, literal=number % 2 == 0, is_call=is_call)
        position = end


def with_sentinel(message: dict[str, Any], at_end: bool) -> Iterator[dict[str, Any]]:
    """The message with a sentinel in it: before or after its text (stripped or not), or after the last call's name."""
    content = message["content"]
    if at_end and (calls := message.get("tool_calls")):
        last = calls[-1]
        function = {**last["function"], "name": last["function"]["name"] + SENTINEL}
        yield {**message, "tool_calls": [*calls[:-1], {**last, "function": function}]}
    elif isinstance(content, str):
        for text in (content, content.rstrip() if at_end else content.lstrip()):
            yield {**message, "content": text + SENTINEL if at_end else SENTINEL + text}


def end_of_calls(text: str, start: int, end: str, alone: str) -> int | None:
    """Where a turn of calls ends, for some families end it otherwise than a turn of text; ``None``: nobody can tell.

    Args:
        text: The whole conversation.
        start: Behind the name of the last call.
        end: What ends a turn of text.
        alone: The conversation up to this turn.
    """
    same = common_start(text, alone)
    if end and (found := same.find(end, start)) >= 0:
        return found + len(end)
    return len(same.rstrip()) if same == alone and len(same.rstrip()) > start else None


def as_parts(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its text as a list of parts."""
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
