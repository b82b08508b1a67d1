# SPDX-License-Identifier: Apache-2.0
"""Omni models hear what they see; their videos need torchvision (see conftest.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from .test_families import FAMILIES, array, bound, film, ours, sound, turn


@pytest.mark.parametrize("name", ["qwen2_omni", "qwen3_omni"])
def test_the_sound_of_a_video_goes_with_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.data.media import decode

    family, processor = FAMILIES[name], FAMILIES[name].processor()
    template = bound(family, processor.tokenizer)
    heard = iter([sound(7, 1.5), None])
    silent = decode.read_video
    monkeypatch.setattr(decode, "read_video", lambda value, limits: replace(silent(value, limits), sound=next(heard)))
    messages = [turn("user", sound(1), film(1), film(2), sound(2), "What is this?")]
    found = ours(template, processor, messages)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    metadata = {"fps": 2.0, "duration": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
    theirs = processor(
        text=[text],
        videos=[[film(1), film(2)]],
        audio=[sound(1), sound(7, 1.5), sound(2)],
        audio_from_video_indices=[None, 0, None],
        load_audio_from_video=True,
        video_metadata=[[metadata] * 2],
        do_sample_frames=False,
        fps=2.0,
        return_tensors="pt",
    )
    assert found.ids == theirs["input_ids"][0].tolist()
    assert found.inputs.pop("use_audio_in_video") is True
    assert set(found.inputs) == set(theirs) - {"input_ids", "attention_mask"}
    for key, value in found.inputs.items():
        np.testing.assert_array_equal(array(value), array(theirs[key]), err_msg=key)
