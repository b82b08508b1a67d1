# SPDX-License-Identifier: Apache-2.0
"""Names that people's scripts import from LLaMA-Factory: each is importable here, or says which room it waits for."""

from __future__ import annotations

from importlib import import_module

import pytest

BUILT = """
llamafactory.cli main
llamafactory.launcher launch
llamafactory.train.tuner run_exp
llamafactory.train.tuner export_model
llamafactory.train.tuner _training_function
llamafactory.extras.misc is_env_enabled
llamafactory.extras.ploting plot_loss
llamafactory.extras.constants SUPPORTED_MODELS
llamafactory.hparams get_train_args
llamafactory.hparams get_infer_args
llamafactory.hparams get_eval_args
llamafactory.hparams get_ray_args
llamafactory.hparams read_args
llamafactory.train.callbacks LogCallback
llamafactory.train.callbacks ReporterCallback
llamafactory.train.callbacks PissaConvertCallback
llamafactory.train.trainer_utils get_swanlab_callback
llamafactory.train.trainer_utils create_modelcard_and_push
llamafactory.train.pt run_pt
llamafactory.train.sft run_sft
llamafactory.train.sft.trainer CustomSeq2SeqTrainer
llamafactory.train.rm run_rm
llamafactory.train.ppo run_ppo
llamafactory.train.dpo run_dpo
llamafactory.train.kto run_kto
llamafactory.model load_tokenizer
llamafactory.model load_model
llamafactory.data get_dataset
llamafactory.data get_template_and_fix_tokenizer
llamafactory.data TEMPLATES
llamafactory.chat ChatModel
llamafactory.chat.chat_model ChatModel
llamafactory.api.app create_app
llamafactory.api.app run_api
llamafactory.eval.evaluator Evaluator
llamafactory.eval.evaluator run_eval
llamafactory.webui.interface run_web_demo
llamafactory.webui.interface create_web_demo
llamafactory.webui.interface create_ui
llamafactory.webui.interface run_web_ui
llamafactory.webui.engine Engine
llamafactory.webui.runner Runner
llamafactory.webui.common save_config
llamafactory.webui.components create_train_tab
llamafactory.webui.components create_top
llamafactory.webui.components create_eval_tab
llamafactory.webui.components create_infer_tab
llamafactory.webui.components create_export_tab
llamafactory.webui.components create_footer
llamafactory.v1 launcher
llamafactory.third_party.muon Muon
"""

# Module and name -> the part of the house that will hold it.
WAITING = {
    "llamafactory.train.mca run_sft": "Megatron-core training",
    "llamafactory.train.ksft.workflow run_sft": "KTransformers",
}


def found(line: str) -> bool:
    module, name = line.split()
    try:
        return hasattr(import_module(module), name)
    except ModuleNotFoundError as error:
        assert error.name is not None and error.name.startswith("llamafactory"), error
        return False


@pytest.mark.parametrize("line", BUILT.strip().splitlines())
def test_a_name_whose_room_is_built_is_there(line):
    assert found(line)


@pytest.mark.parametrize("line", WAITING)
def test_a_name_that_waits_is_moved_up_when_its_room_is_built(line):
    assert not found(line)
