# SPDX-License-Identifier: Apache-2.0
"""SOLAR 10.7B."""

from ..template.chat_template import ChatTemplate

solar = ChatTemplate(
    name="solar",
    skip_empty_system=True,
    system="### System:\n{{content}}\n\n",
    user="### User:\n{{content}}\n\n",
    generation="### Assistant:\n",
    assistant="{{content}}",
    end="{{eos}}",
    tool="### Tool:\n{{content}}\n\n",
)
