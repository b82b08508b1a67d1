# SPDX-License-Identifier: Apache-2.0
"""What stands behind the page: its elements, runs and chat; what it shows when it opens, and in another language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chatting.chatter import Chatter
from .common import language
from .handlers.jobs_page import JobsPage
from .manager import Manager
from .runner import Runner
from .texts.texts import parts

if TYPE_CHECKING:
    from gradio.blocks import Block


class Engine:
    """All that the handlers of one page share.

    Args:
        demo_mode: The page is shown to everybody: nothing is run or exported.
        pure_chat: The page is a chat alone.
        chatter: Holds the model that the page talks to.
    """

    def __init__(self, demo_mode: bool = False, pure_chat: bool = False, chatter: Chatter | None = None) -> None:
        self.demo_mode, self.pure_chat = demo_mode, pure_chat
        self.language = language()  # of the page as it is built
        self.manager = Manager()
        self.runner = Runner(self.manager, demo_mode)
        self.jobs_page = JobsPage(self.runner)
        self.chatter = Chatter() if chatter is None else chatter

    def resume(self) -> Any:
        """What a page that opens must show beside what it was built with: the run that goes on, and its language.

        ``page.spoken`` changes with the language, and brings the texts: a page in the language that it was built in,
        as nearly all are, need not wait for some hundred elements.
        """
        chosen = language()
        spoken = {} if chosen == self.language else {"top.lang": chosen, "page.spoken": chosen}
        going_on = {} if self.pure_chat else self.runner.resume(chosen)
        return self.manager.answer(spoken | going_on)

    def resumed(self) -> list[Block]:
        """The elements that :meth:`resume` may change."""
        names = ["top.lang", "page.spoken", *self.runner.resumed()]
        return [self.manager.get_elem_by_id(name) for name in names if self.manager.has(name)]

    def change_lang(self, lang: str) -> dict[Block, Any]:
        """Every text of the page in another language."""
        import gradio as gr

        changes = {}
        for elem in self.manager.get_elem_list():
            name = self.manager.get_id_by_elem(elem)
            found = parts(lang, name)
            if found and ".section." in name:
                found["open"] = False  # its keys are made anew, in this language, when it is opened again
            if found:
                changes[elem] = gr.update(**found)
        return changes

    def close(self) -> None:
        """The server ends: the model's memory and processes are given back. Runs go on: they are no part of it."""
        self.chatter.close()
