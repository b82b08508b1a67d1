# SPDX-License-Identifier: Apache-2.0
"""LLaVA and Video-LLaVA (their text part): each speaks the format of its language model."""

from dataclasses import replace

from .llama3 import llama3
from .mistral import mistral_v1
from .qwen import qwen2
from .vicuna import vicuna
from .yi import yi

llava = replace(vicuna, name="llava", media="llava")

llava_next = replace(vicuna, name="llava_next", media="llava_next")

llava_next_video = replace(vicuna, name="llava_next_video", media="llava_next_video")

video_llava = replace(vicuna, name="video_llava", media="video_llava")

llava_next_llama3 = replace(llama3, name="llava_next_llama3", media="llava_next")

# As officially: white space stands after an answer, not before a question.
llava_next_mistral = replace(
    mistral_v1,
    name="llava_next_mistral",
    user="[INST] {{content}} [/INST]",
    gap=" ",
    merge_system=None,
    system="<<SYS>>\n{{content}}\n<</SYS>>\n\n",
    media="llava_next",
)

llava_next_video_mistral = replace(llava_next_mistral, name="llava_next_video_mistral", media="llava_next_video")

llava_next_qwen = replace(qwen2, name="llava_next_qwen", media="llava_next")

llava_next_yi = replace(yi, name="llava_next_yi", media="llava_next")

llava_next_video_yi = replace(yi, name="llava_next_video_yi", media="llava_next_video")
