"""Print whether a fork of a process that has imported the trainer could still use CUDA. Needs no GPU.

    python benchmarks/gpu/forkcheck.py          as this machine is
    python benchmarks/gpu/forkcheck.py nvml     as on a machine whose NVML answers

mmengine asks for CUDA when it is imported, so a fork made after that cannot use a GPU: trials with a GPU start in new interpreters.
"""

from __future__ import annotations

import os
import sys

import torch


def main() -> None:
    how = sys.argv[1] if len(sys.argv) > 1 else "plain"
    if how == "nvml":
        torch.cuda._device_count_nvml = lambda: 1  # no public way to answer for NVML
    import gfl_lab.train.trial  # noqa: F401

    child = os.fork()
    if child == 0:
        bad = torch._C._cuda_isInBadFork()
        print(f"{how}: this fork {'cannot use CUDA' if bad else 'could use CUDA'}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
