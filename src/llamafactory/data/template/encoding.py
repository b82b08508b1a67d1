# SPDX-License-Identifier: Apache-2.0
"""From conversations to token segments, for a whole batch at once.

The text of each conversation is tokenized as one string, so the ids are those of ``tokenizer.apply_chat_template``;
only the borders between context and trained text are looked up in the encoding afterwards. Plain conversations take a
shorter way to the same ids (:mod:`.shape_cache`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.surrogates import refuse_lone_in_text
from ..media.expansion import Expander
from ..media.placement import Marks, hide_special, mark_media
from ..media.tensors import BatchMedia
from ..messages import Message, Role, Sample, Segment, has_media
from .base import GLUE, Options, Piece, Template, TextSpan
from .shape_cache import ShapeCache
from .text_spans import (
    answer_texts,
    cut_at_answers,
    cut_by_prefix,
    cut_inside,
    join,
    merge,
    text_of,
    to_segments,
    weigh,
    with_turn_breaks,
)
from .word_cache import WordCache

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    from ..media.encoder import MediaEncoder, MediaPrompt


_MOST_SHAPES = 4096


class EncodingTemplate(Template):
    """From the pieces that a template writes to tokens: what all kinds of templates share.

    Args:
        tokenizer: What it encodes with.
        name: Its name, or the path of its file.
        enable_thinking: See :class:`Options`.
        preserve_thinking: See :class:`Options`.
        asked: See :class:`Options`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        asked: bool = False,
    ) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.options = Options(enable_thinking, preserve_thinking, asked=asked)
        self.stop_token_ids: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        special.sort(key=len, reverse=True)
        self._rewritten: dict[tuple[Role, ...], frozenset[int]] = {}
        self._special_words = tuple(special)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), enable_thinking: bool | None = None
    ) -> list[int]:
        pieces = self._whole(self.pieces(messages, tools, self._prompt_options(enable_thinking)))
        (segments,) = self._encode([[(piece, 0.0) for piece in pieces]])
        return [token for segment in segments for token in segment.ids]

    def encode_media_prompt(
        self,
        messages: Sequence[Message],
        media: MediaEncoder,
        tools: Sequence[dict[str, Any]] = (),
        enable_thinking: bool | None = None,
    ) -> MediaPrompt:
        parts = media.collect(messages)
        pieces = self._whole(self.media_pieces(messages, tools, self._prompt_options(enable_thinking), media.family))
        words = "|".join(map(re.escape, media.tokens.values()))
        special = re.compile(f"{words}|{self._special.pattern}" if words else self._special.pattern)
        text, marks = hide_special(pieces, special)

        def tokenize(text: str) -> list[int]:
            shown = [(Piece(part, GLUE, False, not hidden), 0.0) for part, hidden in marks.split(text)]
            (segments,) = self._encode([shown], special)
            return [token for segment in segments for token in segment.ids]

        return media.encode(text, parts, tokenize)

    def encode_asked(self, sample: Sample) -> list[Segment]:
        if not has_media(sample.messages):
            return [Segment(self.encode_prompt(sample.messages, sample.tools), 0.0, GLUE)]
        pieces = self._media_pieces(sample, self._media_of(sample), self._prompt_options(None))
        (segments,) = self._encode([[(piece, 0.0) for piece in pieces]])
        return segments

    def _prompt_options(self, enable_thinking: bool | None) -> Options:
        options = self.options._replace(add_generation_prompt=True)
        return options if enable_thinking is None else options.switched(enable_thinking)

    def take_media(self, media: MediaEncoder) -> None:
        """Let training rows have media. Placeholders that data spells stay text, as special tokens do."""
        self.media = media
        self._expander = Expander(media)
        words = [word for word in media.tokens.values() if not self._special.fullmatch(word)]
        self._special = re.compile("|".join([*map(re.escape, words), self._special.pattern]))

    def encode_running(self, sample: Sample) -> list[Segment]:
        media = self._media_of(sample)
        marks, messages = Marks(), list(sample.messages)
        family = replace(media.family, leading="never", join="", strip_parts=False)
        text = "\n".join(message.text for message in mark_media(messages, family, (), marks))
        try:
            pieces = [Piece(part, 0, True, marked) for part, marked in marks.split(text)]
            pieces = self._expander.write(pieces, media.collect(messages), str(sample.origin))
        except ConfigError as error:
            raise ConfigError(f"{sample.origin}: {error}") from None
        # Running text may spell special tokens: the tokenizer alone reads it.
        begin = self.tokenizer("\n")["input_ids"][:1]
        bos = [Segment(begin, 1.0, GLUE)] if begin == [self.tokenizer.bos_token_id] else []
        weighed = [(piece._replace(literal=True), 0.0 if piece.medium else 1.0) for piece in pieces]
        return [*bos, *self._encode([weighed])[0]]

    def _media_of(self, sample: Sample) -> MediaEncoder:
        if self.media is None:
            raise ConfigError(f"{sample.origin}: the row has media, and this model takes text alone")
        return self.media

    def batch_media(self) -> BatchMedia:
        """What makes the tensors of the media of batches; only with :attr:`media`."""
        assert self.media is not None
        return BatchMedia(self.media, self.count_tokens)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text that the template, or a processor, wrote."""
        (segments,) = self._encode([[(Piece(text, GLUE, False, True), 0.0)]])
        return sum(len(segment.ids) for segment in segments)

    def encode_after(self, messages: Sequence[Message], answer: int, tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        pieces = self.pieces(messages, tools, self.options._replace(add_generation_prompt=True))
        if not any(piece.trained for piece in pieces):  # Jinja templates mark turns of finished conversations only
            prompted, bare = "".join(piece.text for piece in pieces), self.render(messages, tools)
            if prompted.startswith(bare):
                prompt = Piece(prompted[len(bare) :], GLUE, False, True)
                pieces = [*self.pieces(messages, tools, self.options), prompt]
        written = [number for number, piece in enumerate(pieces) if piece.trained and piece.message == answer]
        if not written:
            raise ConfigError(f"template {self.name}: cannot tell what follows an answer; choose a named template")
        rest = [(piece, 0.0) for piece in pieces[written[-1] + 1 :]]
        # Behind a line break, for some tokenizers put a space before the first word of a text.
        (newline,), (segments,) = (
            self._encode([[(Piece("\n", GLUE, False, True), -1.0), *more]]) for more in ([], rest)
        )
        if segments[0] != newline[0]:  # it grew together with the text
            (segments,) = self._encode([rest])
            return [token for segment in segments for token in segment.ids]
        return [token for segment in segments[1:] for token in segment.ids]

    def rewritten(self, sample: Sample) -> frozenset[int]:
        messages = sample.messages
        answers = [place for place, message in enumerate(messages[:-1]) if message.role == "assistant"]
        if not answers or not self.rewrites(sample):
            return frozenset()
        shape: tuple[Role, ...] | None = None
        if not sample.tools and all(self.plain_text(message) is not None for message in messages):
            shape = tuple(message.role for message in messages)
            if shape in self._rewritten:
                return self._rewritten[shape]
        try:
            whole = self._training_pieces(messages, sample.tools)
            found = frozenset(place for place in answers if not self._stands(whole, sample, place))
        except ConfigError:  # encoding names the row
            return frozenset()
        if shape is not None and len(self._rewritten) < _MOST_SHAPES:
            self._rewritten[shape] = found
        return found

    def rewrites(self, sample: Sample) -> bool:
        """Whether an answer may be shown otherwise once more turns follow."""
        return True

    def _stands(self, whole: list[Piece], sample: Sample, place: int) -> bool:
        """Whether an answer stands in the whole text as it does in the text that ends with it."""
        alone = self._training_pieces(sample.messages[: place + 1], sample.tools)
        return answer_texts(whole, place, self.ends) == answer_texts(alone, place, self.ends)

    def _training_pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[Piece]:
        return self.pieces(messages, tools, self.options._replace(for_training=True))

    def encode_batch(
        self, samples: Sequence[Sample], train_on_prompt: bool = False, mask_history: bool = False
    ) -> list[list[Segment]]:
        segments = self._encode_plain_samples(samples, train_on_prompt, mask_history)
        rest = [number for number, found in enumerate(segments) if found is None]
        general = self._encode_general([samples[number] for number in rest], train_on_prompt, mask_history)
        for number, found in zip(rest, general, strict=True):
            segments[number] = found
        return [found for found in segments if found is not None]

    @cached_property
    def _shape_cache(self) -> ShapeCache | None:
        words = WordCache.of(self.tokenizer)
        return None if words is None else ShapeCache(self._weighed_pieces, self.plain_text, words)

    def _weighed_pieces(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[Piece]:
        pieces = self._whole(self._training_pieces(messages, tools))
        if self.parses_special:
            pieces = [piece._replace(literal=True) for piece in pieces]
        return with_turn_breaks(pieces) if self.trains_turn_break else pieces

    def _media_pieces(self, sample: Sample, media: MediaEncoder, options: Options) -> list[Piece]:
        """A conversation with media, each expanded to what it takes."""
        parts = media.collect(sample.messages)
        pieces = self._whole(self.media_pieces(sample.messages, sample.tools, options, media.family))
        return self._expander.write(pieces, parts, str(sample.origin))

    def _weighed_media_pieces(self, sample: Sample, media: MediaEncoder) -> list[Piece]:
        pieces = self._media_pieces(sample, media, self.options._replace(for_training=True))
        if self.parses_special:
            pieces = [piece._replace(literal=True) for piece in pieces]
        return with_turn_breaks(pieces) if self.trains_turn_break else pieces

    def _whole(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces, none of which holds half a character: a system text of the settings or a Jinja could."""
        for piece in pieces:
            refuse_lone_in_text(piece.text, f"template {self.name}: the text that it writes")
        return pieces

    def _encode_plain_samples(
        self, samples: Sequence[Sample], train_on_prompt: bool, mask_history: bool
    ) -> list[list[Segment] | None]:
        """Encode the plain conversations among some; the others become ``None``."""
        if self._shape_cache is None:
            return [None] * len(samples)
        _set_no_limits(self.tokenizer.backend_tokenizer)
        return self._shape_cache.encode(samples, train_on_prompt, mask_history)

    def _encode_general(
        self, samples: Sequence[Sample], train_on_prompt: bool, mask_history: bool
    ) -> list[list[Segment]]:
        """Encode any conversations: each is rendered, tokenized as a whole and cut."""
        weighed = []
        for sample in samples:
            try:
                if self.media is not None and has_media(sample.messages):
                    pieces = self._weighed_media_pieces(sample, self.media)
                else:
                    pieces = self._weighed_pieces(sample.messages, sample.tools)
            except ConfigError as error:
                raise ConfigError(f"{sample.origin}: {error}" if sample.origin else str(error)) from None
            weighed.append(weigh(pieces, sample.messages, train_on_prompt, mask_history))
        return self._encode(weighed)

    def _encode(
        self, samples: list[list[tuple[Piece, float]]], special: re.Pattern[str] | None = None
    ) -> list[list[Segment]]:
        """Encode; special tokens that data (not the template) holds are encoded as the plain text they are."""
        special = special or self._special
        search = special.search
        with_special = {
            number
            for number, pieces in enumerate(samples)
            if any(not piece.literal and search(piece.text) for piece, _ in pieces)
        }
        spans = [[] if number in with_special else join(pieces) for number, pieces in enumerate(samples)]
        segments = self._encode_spans(spans)
        for number in with_special:
            segments[number] = self._encode_with_special(samples[number], special)
        return segments

    def _encode_spans(self, samples: list[list[TextSpan]]) -> list[list[Segment]]:
        if not self.tokenizer.is_fast:
            return [to_segments(self._cut(spans), spans) for spans in samples]
        backend = self.tokenizer.backend_tokenizer
        _set_no_limits(backend)
        encodings = backend.encode_batch([text_of(spans) for spans in samples], add_special_tokens=False)
        return [
            to_segments(cut_at_answers(backend, encoding, spans), spans)
            for encoding, spans in zip(encodings, samples, strict=True)
        ]

    def _cut(self, spans: Sequence[TextSpan]) -> list[list[int]]:
        """The tokens of each span."""
        if not self.tokenizer.is_fast:
            return cut_by_prefix(self.tokenizer, spans)
        backend = self.tokenizer.backend_tokenizer
        return cut_at_answers(backend, backend.encode(text_of(spans), add_special_tokens=False), spans)

    def _encode_with_special(self, pieces: list[tuple[Piece, float]], special: re.Pattern[str]) -> list[Segment]:
        """Encode a conversation in parts, cut around special tokens that stand in data."""
        out: list[Segment] = []
        begun: set[int] = set()
        for plain, group in groupby(_split_special(pieces, special), key=lambda item: item[0]):
            spans = join([(piece, weight) for _, piece, weight in group], begun)
            if plain:
                found = [_encode_plain(self.tokenizer, span.text) for span in spans]
            else:
                found = cut_inside(self._cut, spans) if out else self._cut(spans)
            out += to_segments(found, spans)
        return merge(out)


def _set_no_limits(backend: Tokenizer) -> None:
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()


def _split_special(pieces: list[tuple[Piece, float]], special: re.Pattern[str]) -> Iterator[tuple[bool, Piece, float]]:
    """Cut special tokens out of data; yields (is such a token, piece, weight)."""
    for piece, weight in pieces:
        start = 0
        for found in () if piece.literal else special.finditer(piece.text):
            yield False, piece._replace(text=piece.text[start : found.start()]), weight
            yield True, piece._replace(text=found.group()), weight
            start = found.end()
        yield False, piece._replace(text=piece.text[start:]), weight


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text in the middle of a conversation as if the tokenizer had no added tokens."""
    backend = tokenizer.backend_tokenizer

    def ids(text: str) -> list[int]:
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
        return [token.id for word in words for token in backend.model.tokenize(word)]

    newline, found = ids("\n"), ids("\n" + text)
    return found[len(newline) :] if found[: len(newline)] == newline else ids(text)
