from .rollouts import *
from .running import log_of, train
import pytest
@pytest.mark.parametrize("given", [GRPO, PPO], ids=["grpo","ppo"])
@pytest.mark.parametrize("kind", ["full","lora"])
def test_smoke(keys, tmp_path, given, kind):
    run = train(keys(**prompt_set(tmp_path), **given) | {"max_steps": 40, "finetuning_type": kind, "val_size":4,"do_train":True,"do_eval":True, "learning_rate": 3e-3 if kind=="full" else 1e-2})
    for row in log_of(run): print({k:v for k,v in row.items() if "time" not in k})
    print(sorted(p.name for p in run.iterdir()))
    print(records(run)[0])
