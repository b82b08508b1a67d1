# SPDX-License-Identifier: Apache-2.0
"""What happens to a sample with more tokens than ``cutoff_len``: the same choices in every stage.

``truncate`` cuts, ``drop`` leaves the row out, ``error`` stops, ``split`` makes several rows at the borders of turns
(of running text: at every ``cutoff_len`` tokens). A turn is everything up to and with a response. A response that
must be cut loses its tail *with* its end-of-turn token, so the model never learns to stop where the cut fell.
A row in which the cut would go through an image, a video or a sound is left out.
``keep_start`` and ``keep_end`` cut wherever the limit falls, as other tools do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ...extras.errors import ConfigError
from ..messages import Medium, Message, Origin, Segment

Rule = Literal["truncate", "drop", "error", "split", "keep_start", "keep_end"]
# With fewer tokens left, a further turn is not begun: headers alone would fill them.
_LEAST_ROOM = 16


class Fitted(NamedTuple):
    """Rows that a sample became (none: it is left out) and how many of its tokens are in none of them."""

    rows: list[list[Segment]]
    lost: int


class _Turn(NamedTuple):
    context: list[Segment]
    response: list[Segment]

    @property
    def segments(self) -> list[Segment]:
        return [*self.context, *self.response]


def fit(segments: list[Segment], messages: Sequence[Message], cutoff: int, rule: Rule, origin: Origin | None) -> Fitted:
    """Make a conversation fit.

    Args:
        segments: Its tokens.
        messages: What the segments' ``message`` points into.
        cutoff: Most tokens of a row.
        rule: What to do with a longer one.
        origin: For the message of ``error``.

    Returns:
        Rows of at most ``cutoff`` tokens. A row may have no trained token; the caller decides about those.

    Raises:
        ConfigError: It is too long and the rule is ``error``.
    """
    total = count(segments)
    if total <= cutoff:
        return Fitted([segments], 0)
    if rule == "drop":
        return Fitted([], total)
    if rule == "error":
        raise too_long(origin, total, cutoff)
    found = _cut(segments, messages, cutoff, rule, total)
    sizes = _media_sizes(segments)
    rows = [row for row in found.rows if count(row) <= cutoff and _has_whole_media(row, sizes)]
    return found if len(rows) == len(found.rows) else Fitted(rows, max(1, total - sum(map(count, rows))))


def _cut(segments: list[Segment], messages: Sequence[Message], cutoff: int, rule: Rule, total: int) -> Fitted:
    if rule in ("keep_start", "keep_end"):
        return Fitted([_keep(segments, cutoff, rule)], total - cutoff)
    head, turns = _turns(segments, messages)
    if rule == "split":
        return _split(head, turns, cutoff, total)
    row = _truncate(head, turns, cutoff)
    return Fitted([row], total - count(row))


def _media_sizes(segments: Sequence[Segment]) -> dict[Medium, int]:
    return {segment.medium: len(segment.ids) for segment in segments if segment.medium}


def _has_whole_media(row: Sequence[Segment], sizes: Mapping[Medium, int]) -> bool:
    """Whether every medium of a row has all of its tokens."""
    return all(size == sizes[medium] for medium, size in _media_sizes(row).items())


def fit_running(segments: list[Segment], cutoff: int, rule: Rule, origin: Origin | None) -> Fitted:
    """Make running text with media fit; rows end before a medium that has no room left in them."""
    total = count(segments)
    if total <= cutoff or rule in ("drop", "error"):
        return fit(segments, (), cutoff, rule, origin)
    if rule != "split":
        row = _keep(segments, cutoff, "keep_end" if rule == "keep_end" else "keep_start")
        return Fitted([row], total - cutoff) if _has_whole_media(row, _media_sizes(segments)) else Fitted([], total)
    rows: list[list[Segment]] = [[]]
    for segment in segments:
        size, start = len(segment.ids), 0
        if segment.medium and size > cutoff:
            continue
        while start < size:
            room = cutoff - count(rows[-1])
            if room == 0 or (segment.medium and size > room):
                rows.append([])
                continue
            rows[-1].append(segment._replace(ids=segment.ids[start : start + room]))
            start += room
    return Fitted(rows, total - sum(map(count, rows)))


def fit_prompt(segments: list[Segment], cutoff: int, rule: Rule, origin: Origin | None) -> Fitted:
    """Make a prompt fit: it loses the middle of its text, since its end is its header; with ``keep_end`` its start."""
    total = count(segments)
    if total <= cutoff or rule in ("drop", "error"):
        return fit(segments, (), cutoff, rule, origin)
    row = _keep(segments, cutoff, rule) if rule == "keep_end" else _shrink(segments, cutoff)
    return _if_whole([row], [segments], cutoff)


def fit_text(ids: list[int], cutoff: int, rule: Rule, origin: Origin | None) -> tuple[list[list[int]], int]:
    """Make running text fit: the rows' tokens, and how many tokens were lost."""
    if len(ids) <= cutoff:
        return [ids], 0
    if rule == "drop":
        return [], len(ids)
    if rule == "error":
        raise too_long(origin, len(ids), cutoff)
    if rule != "split":
        return [ids[-cutoff:] if rule == "keep_end" else ids[:cutoff]], len(ids) - cutoff
    rows = [ids[start : start + cutoff] for start in range(0, len(ids), cutoff)]
    if len(rows[-1]) > 1:
        return rows, 0
    return rows[:-1], 1  # one token alone has nothing to predict


def too_long(origin: Origin | None, total: int, cutoff: int) -> ConfigError:
    """The error of ``overlong: error``."""
    return ConfigError(f"{origin}: {total} tokens, cutoff_len is {cutoff} (overlong: error)")


def count(segments: Sequence[Segment]) -> int:
    """Tokens in segments."""
    return sum(len(segment.ids) for segment in segments)


def cut_middle(ids: list[int], room: int) -> list[int]:
    """Keep the start and the end: there stand the markers of a turn, and mostly the question."""
    if len(ids) <= room:
        return ids
    tail = room // 2
    return ids[: room - tail] + ids[len(ids) - tail :]


def _turns(segments: list[Segment], messages: Sequence[Message]) -> tuple[list[Segment], list[_Turn]]:
    """Separate the opening (BOS, system text, tool list) from the turns, each with its context and its response."""
    roles: list[str] = []
    following = "end"
    for segment in reversed(segments):  # glue goes with what follows it
        following = messages[segment.message].role if segment.message >= 0 else following
        roles.append(following)
    roles.reverse()
    start = next((i for i, role in enumerate(roles) if role != "system" and segments[i].message >= 0), len(segments))
    turns: list[_Turn] = []
    previous = "assistant"
    for segment, role in zip(segments[start:], roles[start:], strict=True):
        if role == "end" and turns:  # closing glue
            role = previous
        if not turns or (previous == "assistant" and role != "assistant"):
            turns.append(_Turn([], []))
        # What stands before a response (its header) is context: it is not trained and must not lose its place.
        responding = role == "assistant" and (turns[-1].response or segment.weight > 0)
        (turns[-1].response if responding else turns[-1].context).append(segment)
        previous = role
    return segments[:start], turns


def _truncate(head: list[Segment], turns: list[_Turn], cutoff: int) -> list[Segment]:
    """Keep turns from the first trained one on, then the nearest untrained history that still fits."""
    if not turns:
        return _shrink(head, cutoff)
    first = _first_trained(turns)
    row = _fit_turn(_Turn([*head, *turns[first].context], turns[first].response), cutoff)
    whole = count(row) == count(head) + count(turns[first].segments)
    for turn in turns[first + 1 :]:
        room = cutoff - count(row)
        if not whole or room < min(_LEAST_ROOM, count(turn.segments)):
            break
        row += _fit_turn(turn, room)
        whole = count(turn.segments) <= room
    if count(row[: len(head)]) == count(head):
        for turn in reversed(turns[:first]):
            if count(row) + count(turn.segments) > cutoff:
                break
            row[len(head) : len(head)] = turn.segments
    return row


def _split(head: list[Segment], turns: list[_Turn], cutoff: int, total: int) -> Fitted:
    """Fill rows with whole turns. A new row repeats the opening and, untrained, what came just before."""
    rows: list[list[Segment]] = []
    kept = 0
    for number in range(_first_trained(turns), len(turns)):
        turn = turns[number]
        size = count(turn.segments)
        if rows and count(rows[-1]) + size <= cutoff:
            rows[-1] += turn.segments
            kept += size
            continue
        before = _context(head, turns[:number], min(cutoff // 2, cutoff - size))
        if rows:
            before = [segment._replace(weight=0.0) for segment in before]
        row = _fit_turn(_Turn([*before, *turn.context], turn.response), cutoff)
        kept += max(count(row) - (count(before) if rows else 0), 0)
        rows.append(row)
    return Fitted(rows, total - kept)


def _context(head: list[Segment], turns: list[_Turn], room: int) -> list[Segment]:
    """The opening and the latest turns that fit into ``room`` beside it."""
    taken: list[Segment] = []
    for turn in reversed(turns):
        if count(head) + count(taken) + count(turn.segments) > room:
            break
        taken = [*turn.segments, *taken]
    return [*head, *taken]


def _fit_turn(turn: _Turn, room: int) -> list[Segment]:
    """Cut a turn: first the context, down to half of the room; only then the tail of the response."""
    context, response = count(turn.context), count(turn.response)
    if context + response <= room:
        return turn.segments
    response_room = min(response, max(room - context, (room + 1) // 2))
    return [*_shrink(turn.context, room - response_room), *_first(turn.response, response_room)]


def _first(segments: list[Segment], room: int) -> list[Segment]:
    kept = []
    for segment in segments:
        if room <= 0:
            break
        kept.append(segment._replace(ids=segment.ids[:room]))
        room -= len(segment.ids)
    return kept


def _keep(segments: list[Segment], cutoff: int, rule: Rule) -> list[Segment]:
    """The first or the last tokens."""
    if rule == "keep_start":
        return _first(segments, cutoff)
    turned = [segment._replace(ids=segment.ids[::-1]) for segment in reversed(segments)]
    return [segment._replace(ids=segment.ids[::-1]) for segment in reversed(_first(turned, cutoff))]


def _shrink(segments: list[Segment], room: int) -> list[Segment]:
    """Cut the longest segments of text to one common length, out of their middles, until all fit beside the media."""
    room = max(0, room - count([segment for segment in segments if segment.medium]))
    sizes = sorted(len(segment.ids) for segment in segments if not segment.medium)
    level, left = room, room
    for rank, size in enumerate(sizes):
        level = left // (len(sizes) - rank)
        if size > level:
            break
        left -= size
    else:
        return segments
    return [segment if segment.medium else segment._replace(ids=cut_middle(segment.ids, level)) for segment in segments]


def _first_trained(turns: Sequence[_Turn]) -> int:
    trained = (number for number, turn in enumerate(turns) if any(segment.weight > 0 for segment in turn.segments))
    return next(trained, 0)


def fit_completions(
    sequences: Sequence[list[Segment]], history: Sequence[Message], cutoff: int, rule: Rule, origin: Origin | None
) -> Fitted:
    """Make several completions of one prompt fit, each with the same prompt before it.

    Args:
        sequences: Prompt and completion, once for each completion.
        history: The messages of the prompt; what follows them is the completion.
        cutoff: Most tokens of a sequence.
        rule: What to do with a longer one; there is nothing to split, so ``split`` cuts like ``truncate``.
        origin: For the message of ``error``.

    Returns:
        The sequences, none of them if they are left out. The prompt gives way first, oldest turns first, down to half
        of the room; then the completions lose their tails.

    Raises:
        ConfigError: One is too long and the rule is ``error``.
    """
    longest, total = max(map(count, sequences)), sum(map(count, sequences))
    if longest <= cutoff:
        return Fitted(list(sequences), 0)
    if rule == "drop":
        return Fitted([], total)
    if rule == "error":
        raise too_long(origin, longest, cutoff)
    if rule in ("keep_start", "keep_end"):
        return _if_whole([_keep(segments, cutoff, rule) for segments in sequences], sequences, cutoff)
    starts = [_completion_start(segments, len(history)) for segments in sequences]
    prompt = sequences[0][: starts[0]]
    completions = [segments[start:] for segments, start in zip(sequences, starts, strict=True)]
    room = min(max(map(count, completions)), max(cutoff - count(prompt), (cutoff + 1) // 2))
    prompt = _latest(prompt, history, cutoff - room)
    return _if_whole([[*prompt, *_first(completion, room)] for completion in completions], sequences, cutoff)


def _if_whole(rows: list[list[Segment]], sequences: Sequence[list[Segment]], cutoff: int) -> Fitted:
    """Cut sequences, or none of them where a medium would be in pieces."""
    total = sum(map(count, sequences))
    whole = [
        count(row) <= cutoff and _has_whole_media(row, _media_sizes(before))
        for row, before in zip(rows, sequences, strict=True)
    ]
    return Fitted(rows, total - sum(map(count, rows))) if all(whole) else Fitted([], total)


def _completion_start(segments: list[Segment], history: int) -> int:
    """Index of the first segment after the history; glue goes with what follows it."""
    start = next(index for index, segment in enumerate(segments) if segment.message >= history)
    while start and segments[start - 1].message < 0:
        start -= 1
    return start


def _latest(prompt: list[Segment], history: Sequence[Message], room: int) -> list[Segment]:
    """The opening and the latest turns of a prompt, the last turn cut if it does not fit beside the opening."""
    if count(prompt) <= room:
        return prompt
    head, turns = _turns(prompt, history)
    if not turns:
        return _shrink(head, room)
    if count(head) + count(turns[-1].segments) > room:
        return _shrink([*head, *turns[-1].segments], room)
    return _context(head, turns, room)
