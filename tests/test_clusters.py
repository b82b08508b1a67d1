# SPDX-License-Identifier: Apache-2.0
"""Files for clusters and containers are well formed, and what they name is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CLUSTERS = ROOT / "examples" / "clusters"
IMAGES = sorted((ROOT / "docker").iterdir())
# What launching.read_place and torchrun_argv read of a machine of several.
PLACE = {"NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE"}


def _read(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / name).read_text("utf-8"))


def test_the_page_names_every_file() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text("utf-8")
    assert {name for name in re.findall(r"examples/clusters/([\w.]+)\)", page)} == {
        one.name for one in CLUSTERS.iterdir()
    }


def test_slurm_says_where_each_machine_stands() -> None:
    script = CLUSTERS / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert set(re.findall(r"\b([A-Z_]+)=", script.read_text("utf-8"))) == PLACE


def test_kubernetes_says_where_each_machine_stands() -> None:
    """A pod's address is <set>-<job>-<number of the job>-<number in it>.<set>."""
    jobs = _read("jobset.yaml")
    [job] = jobs["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    [container] = pods["template"]["spec"]["containers"]
    said = {one["name"]: one.get("value") for one in container["env"]}
    assert said.keys() == PLACE and int(said["NNODES"]) == pods["completions"] == pods["parallelism"]
    name = jobs["metadata"]["name"]
    assert said["MASTER_ADDR"] == f"{name}-{job['name']}-0-0.{name}"
    assert int(said["NPROC_PER_NODE"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    queues = list(yaml.safe_load_all((CLUSTERS / "kueue_queue.yaml").read_text("utf-8")))
    assert jobs["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queues[-1]["metadata"]["name"]


def test_skypilot_and_ray_run_what_is_there() -> None:
    run = _read("skypilot.yaml")["run"]
    assert set(re.findall(r"\b([A-Z_]+)=", run)) == PLACE
    assert (ROOT / re.findall(r"train (\S+)", run)[0]).is_file()
    ray = _read("ray_job.yaml")["spec"]
    [workers] = ray["rayClusterSpec"]["workerGroupSpecs"]
    assert f"ray_num_workers={workers['replicas']}" in ray["entrypoint"]


@pytest.mark.parametrize("folder", IMAGES, ids=lambda folder: folder.name)
def test_images_run_as_nobody_special_and_answer(folder: Path) -> None:
    kind = folder.name.removeprefix("docker-")
    lines = (folder / "Dockerfile").read_text("utf-8").splitlines()
    assert "USER 1001" in lines and not [line for line in lines if line.startswith("FROM") and ":" not in line]
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line
    services = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))["services"]
    assert services.keys() == {"page", "server"}
    for service in services.values():
        assert service["image"] == f"llamafactory:{kind}" and service["healthcheck"]["test"][0] == "CMD"
        assert (ROOT / service["build"]["dockerfile"]).is_file() and all(p.startswith("127.") for p in service["ports"])
