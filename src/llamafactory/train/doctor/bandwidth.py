# SPDX-License-Identifier: Apache-2.0
"""How fast the processes of a run add tensors up: as many as it will have, over the backend and port it will use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from ...extras.errors import ConfigError, first_line
from ...extras.line import Place

_BYTES, _BYTES_OF_ACCELERATORS = 8 << 20, 128 << 20
_ROUNDS = 4
SLOW = 0.1e9  # bytes a second: an Ethernet of 1 Gbit/s


def measure(
    place: Place, workers: list[int], use_cpu: bool, environment: Mapping[str, str], seconds: float
) -> dict[str, float | str]:
    """Start this machine's processes and return ``rate`` (bus bandwidth in bytes a second) and ``backend``.

    Args:
        place: This machine's.
        workers: Number of processes of each machine.
        use_cpu: As in the run.
        environment: Variables of the processes.
        seconds: How long all of it may take, the imports of torch included.

    Raises:
        ConfigError: A process failed, or they did not end in time.
    """
    children = []
    for local in range(workers[place.rank]):
        ranks: dict[str, object] = {
            "RANK": sum(workers[: place.rank]) + local,
            "LOCAL_RANK": local,
            "WORLD_SIZE": sum(workers),
        }
        ranks |= {"LOCAL_WORLD_SIZE": workers[place.rank], "MASTER_ADDR": place.address, "MASTER_PORT": place.port}
        variables = {**environment, **{name: str(value) for name, value in ranks.items()}}
        argv = [sys.executable, "-m", "llamafactory.train.doctor.bandwidth", str(int(use_cpu)), str(seconds)]
        children.append(
            subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
    try:
        return _collect(children, seconds)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _collect(children: list[subprocess.Popen[str]], seconds: float) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    deadline = time.monotonic() + seconds
    for local, child in enumerate(children):
        try:
            said, _ = child.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"all-reduce: the processes did not end within {seconds:.0f} s; a firewall between machines, "
                "or the wrong network device (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says more)"
            ) from None
        lines = said.splitlines()
        found = json.loads(lines[-1]) if lines and child.returncode == 0 else {}
        if not found:
            raise ConfigError(f"all-reduce: process {local} ended with exit code {child.returncode}")
        if "fault" in found:
            raise ConfigError(f"all-reduce: {found['fault']}")
    return found


def check_devices(workers: int, devices: int) -> None:
    """Compare processes of a machine with its accelerators.

    Raises:
        ConfigError: There are not enough.
    """
    if 0 < devices < workers:
        raise ConfigError(f"NPROC_PER_NODE: {workers} processes, but this machine offers {devices} accelerators")


def _all_reduce(use_cpu: bool, limit: float) -> dict[str, float | str]:
    import torch
    import torch.distributed as dist

    accelerator = None if use_cpu else torch.accelerator.current_accelerator(check_available=True)
    kind = "cpu" if accelerator is None else accelerator.type
    device = torch.device(kind)
    if accelerator is not None:
        check_devices(int(os.environ["LOCAL_WORLD_SIZE"]), torch.accelerator.device_count())
        device = torch.device(kind, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(device.index)
    backend = dist.get_default_backend_for_device(kind)
    dist.init_process_group(backend, timeout=timedelta(seconds=limit))
    size = _BYTES if accelerator is None else _BYTES_OF_ACCELERATORS
    tensor = torch.ones(size // 4, device=device)
    dist.all_reduce(tensor)  # connections are made at the first one
    if tensor[0].item() != dist.get_world_size():
        raise ConfigError(f"the sum over {dist.get_world_size()} processes is {tensor[0].item()}")
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        dist.all_reduce(tensor.fill_(1.0))
    tensor[0].item()
    seconds, share = time.perf_counter() - started, 2 * (dist.get_world_size() - 1) / dist.get_world_size()
    dist.destroy_process_group()
    return {"rate": size * share * _ROUNDS / seconds, "backend": backend}


if __name__ == "__main__":
    try:
        result = _all_reduce(sys.argv[1] == "1", float(sys.argv[2]))
    except (ConfigError, RuntimeError) as error:  # whatever a backend says of its network is a RuntimeError
        result = {"fault": first_line(error)[:300]}
    print(json.dumps(result), flush=True)
