"""Accelerators that are common in clusters, and how much memory a program finds on each.

As ``nvidia-smi`` and ``amd-smi`` tell it, with error correction as it is shipped; the makers' data sheets count in
powers of ten and before what the driver keeps. Memory is all that is known of them here.
"""

from collections.abc import Mapping

MIB_PER_GIB = 1024

ACCELERATORS_MIB: Mapping[str, int] = {
    "NVIDIA T4": 15_360,
    "NVIDIA V100 16GB": 16_384,
    "NVIDIA A10G": 23_028,
    "NVIDIA L4": 23_034,
    "NVIDIA RTX 4090": 24_564,
    "NVIDIA V100 32GB": 32_768,
    "NVIDIA A100 40GB": 40_960,
    "NVIDIA L40S": 46_068,
    "NVIDIA H100 80GB": 81_559,
    "NVIDIA A100 80GB": 81_920,
    "NVIDIA H200": 143_771,
    "NVIDIA B200": 183_359,
    "AMD MI300X": 196_592,
}
"""Name -> MiB, least first."""


def accelerators_gib() -> dict[str, float]:
    return {name: mib / MIB_PER_GIB for name, mib in ACCELERATORS_MIB.items()}
