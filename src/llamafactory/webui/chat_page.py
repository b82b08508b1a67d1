# SPDX-License-Identifier: Apache-2.0
"""The page of ``webchat``: the chat of one loaded model alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras.packages import require
from ..hparams import InferArgs
from .chatting.chatter import Chatter, Loaded
from .components.chatbot import KEPT_SECONDS, create_chat_box
from .components.widgets import QUICK
from .engine import Engine as Board
from .texts.texts import LANGUAGES, text

if TYPE_CHECKING:
    from ..chat.base_engine import Engine

TITLE = "llamafactory"
# On a phone the box and its button stay beside each other, and nothing is wider than the screen.
STYLE = """
#title { flex-wrap: nowrap; align-items: center; }
#title h3 { margin: 0; }
#ask { flex-wrap: nowrap; align-items: end; }
#more { flex-wrap: nowrap; }
@media (max-width: 480px) {
  .gradio-container, .gradio-container > main { padding: 4px !important; }
  #chat, #beside { height: 50vh !important; }
}
"""


def make_page(engine: Engine, args: InferArgs, max_waiting: int) -> Any:
    """Build the page of one loaded model.

    Args:
        engine: Answers; as many questions at once as it can hold, from all tabs together.
        args: The configuration; its generation keys are what the controls begin with.
        max_waiting: Questions that may wait for their turn.

    Returns:
        ``gradio.Blocks``; see :func:`create_chat_box` for its endpoints.
    """
    gr = require("gradio", "webchat", "'gradio>=6'")
    board = Board(pure_chat=True, chatter=Chatter(Loaded(engine, args)))
    manager = board.manager
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_height=True, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
    ) as page:
        with gr.Row(elem_id="title"):
            gr.Markdown(f"### {TITLE}")
            lang = gr.Dropdown(
                list(LANGUAGES), value=board.language, label=text(board.language, "top.lang"), container=False,
                min_width=80, scale=0, interactive=True, elem_id="lang",
            )  # fmt: skip
        manager.add_elems("top", {"lang": lang})
        manager.add_elems("infer", create_chat_box(board, visible=True))
        everything = manager.get_elem_list()
        lang.input(board.change_lang, [lang], everything, **QUICK)
    return page.queue(max_size=max_waiting)
