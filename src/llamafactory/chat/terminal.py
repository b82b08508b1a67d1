# SPDX-License-Identifier: Apache-2.0
"""A chat in the terminal: answers appear as they are made, Ctrl-C stops an answer and not the program."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..hparams import InferArgs, get_infer_args, split_list

if TYPE_CHECKING:
    from ..data.messages import Message
    from .chat_model import ChatModel

DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
HELP = "`clear` forgets the conversation, `exit` or Ctrl-D leaves, Ctrl-C stops an answer."


def run_chat(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Load the model and talk until the user leaves.

    When standard input is no terminal, each of its lines is one question and the end of the input leaves.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).

    Raises:
        ConfigError: The configuration or the model cannot be used.
    """
    args = args if isinstance(args, InferArgs) else get_infer_args(args)
    from .chat_model import ChatModel

    model = ChatModel(args)
    adapters = split_list(args.model.adapter_name_or_path)
    print(f"{args.model.model_name_or_path}" + (f" with {', '.join(adapters)}" if adapters else ""))
    print(HELP, flush=True)
    Terminal(model).run()


class Terminal:
    """The dialogue: reads a line, streams the answer, keeps the history."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._history: list[Message] = []
        self._styled = sys.stdout.isatty()
        self._interactive = sys.stdin.isatty()

    def run(self) -> None:
        """Read and answer until ``exit``, the end of the input, or Ctrl-C twice at the prompt."""
        if self._interactive:
            with suppress(ImportError):  # not on Windows, whose console edits lines itself
                import readline  # noqa: F401 - importing it gives input() line editing and a history of questions
        while (question := self._ask()) is not None:
            match question.strip():
                case "":
                    continue
                case "exit":
                    return
                case "clear":
                    self._history.clear()
                    print("The conversation is forgotten.", flush=True)
                case text:
                    self._answer(text)

    def _ask(self) -> str | None:
        """Return the next line, ``None`` to leave."""
        warned = False
        while True:
            try:
                question = input(self._prompt())
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                print()
                if warned or not self._interactive:
                    return None
                warned = True
                print("Ctrl-C once more, Ctrl-D or `exit` leaves.", flush=True)
                continue
            if not self._interactive and question.strip():
                print(f"User: {question}", flush=True)
            return question

    def _answer(self, question: str) -> None:
        """Stream the answer; it joins the history as far as it came, a failed question does not."""
        from ..data.messages import Message

        message = Message.of("user", question)
        print(self._style(BOLD, "Assistant: "), end="", flush=True)
        text = ""
        conversation = [*self._history, message]
        painter = ThoughtPainter(self._styled)
        with _one_interrupt(), closing(self._model.stream_chat(conversation)) as answer:
            try:
                painter.begin_after(self._model.engine.template.render(conversation, add_generation_prompt=True))
                for piece in answer:
                    text += piece
                    print(painter.paint(piece), end="", flush=True)
                print(painter.finish(), flush=True)
            except KeyboardInterrupt:
                print(painter.finish() + " [stopped]", flush=True)
            except ConfigError as error:
                print(f"\n{error}. `clear` starts afresh.", flush=True)
                return
        self._history += [message, self._model.engine.template.parse(text)]

    def _prompt(self) -> str:
        if not self._interactive:
            return ""
        # \x01 and \x02 tell readline that what stands between takes no room on the line.
        return f"\x01{BOLD}\x02User: \x01{PLAIN}\x02" if self._styled else "User: "

    def _style(self, code: str, text: str) -> str:
        return f"{code}{text}{PLAIN}" if self._styled else text


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """Inside the block the first Ctrl-C interrupts; further ones, while the answer winds down, do nothing."""
    pressed = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal pressed
        if not pressed:
            pressed = True
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ThoughtPainter:
    """Shows what stands between ``<think>`` and ``</think>`` dimmed, in text that arrives in pieces."""

    OPEN, CLOSE = "<think>", "</think>"

    def __init__(self, styled: bool) -> None:
        self._styled = styled
        self._held = ""
        self._inside = False

    def begin_after(self, prompt: str) -> None:
        """Start inside a thought when the prompt has opened one (templates of models that always think)."""
        if self._styled and prompt.rstrip().endswith(self.OPEN):
            self._inside, self._held = True, DIM

    def paint(self, piece: str) -> str:
        """Return the piece with styles; an ending that may be half a tag waits for the next piece."""
        if not self._styled:
            return piece
        text, shown = self._held + piece, ""
        while True:
            tag = self.CLOSE if self._inside else self.OPEN
            before, found, after = text.partition(tag)
            if not found:
                break
            shown += before + (tag + PLAIN if self._inside else DIM + tag)
            self._inside, text = not self._inside, after
        keep = max((size for size in range(1, len(tag)) if text.endswith(tag[:size])), default=0)
        self._held = text[len(text) - keep :]
        return shown + text[: len(text) - keep]

    def finish(self) -> str:
        """Return what waited, and end the dimming."""
        return self._held + (PLAIN if self._styled and self._inside else "")
