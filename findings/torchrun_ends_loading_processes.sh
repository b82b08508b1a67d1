#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0: torchrun that gets SIGTERM (or Ctrl-C) hands it to the process GROUP of each rank (subprocess_handler.py: os.killpg), and gives the ranks 30 s to
# end in order. A rank's DataLoader workers are in its group and die at once, so a rank that finishes its step to save a checkpoint, which the 30 s are for,
# fails with "DataLoader worker (pid ...) is killed by signal: Terminated". Without workers, or with os.setpgid(0, 0) in worker_init_fn, it does not.
# Needs a Python with torch: PYTHON=.venv/bin/python. Seen on 2026-11-29. Fails when that changes.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/rank.py" <<'PYTHON'
import os, pathlib, signal, sys, time

from torch.utils.data import DataLoader

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
out = pathlib.Path(sys.argv[1])
init = (lambda _: os.setpgid(0, 0)) if sys.argv[2] == "own-group" else None
for _ in DataLoader(range(10**6), num_workers=1, worker_init_fn=init):
    out.with_suffix(".ready").touch()
    time.sleep(0.1)
    if asked:
        time.sleep(1)  # the rest of the step, then one more batch
        asked.append(1)
    if len(asked) > 3:
        out.write_text("checkpoint")
        sys.exit(0)
PYTHON
for group in rank-group own-group; do
  "$python" -m torch.distributed.run --nproc-per-node 1 "$folder/rank.py" "$folder/$group" "$group" 2> "$folder/$group.log" &
  until [ -e "$folder/$group.ready" ]; do sleep 0.2; done
  kill -TERM $!
  wait $! || true
  if [ -e "$folder/$group" ]; then echo "$group: saved"; else echo "$group: $(grep -m1 -o 'is killed by signal: Terminated' "$folder/$group.log")"; fi
done
test ! -e "$folder/rank-group"
grep -q "is killed by signal: Terminated" "$folder/rank-group.log"
test -e "$folder/own-group"
echo "as stated"
