"""How much memory this process needed at its peak. Estimates nothing."""

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_memory_bytes(device: "torch.device | None" = None) -> int:
    """Of a CUDA device, what torch's allocator had handed out at most; else the largest resident set of the process.

    None is the device that this process uses: it is looked up, and torch is not imported for it.
    """
    torch = sys.modules.get("torch")
    uses_cuda = torch is not None and torch.cuda.is_initialized()
    if torch is not None and uses_cuda and (device is None or device.type == "cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Linux' high-water mark of this program; getrusage would count the program that started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
