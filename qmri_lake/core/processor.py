"""Instruction sets of the CPU, and the use of oneDNN by TensorFlow."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["enable_onednn", "has_bfloat16", "instruction_set", "onednn_enabled"]

_CPUINFO = Path("/proc/cpuinfo")
_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_SETS = (
    # Fastest first. The flags have their Linux names.
    ("AMX", {"amx_tile"}),
    ("AVX-512", {"avx512f"}),
    ("AVX2", {"avx2"}),
    ("AVX", {"avx"}),
    ("SSE4.2", {"sse4_2"}),
    ("SVE", {"sve"}),
    ("NEON", {"asimd", "neon"}),
)
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of CPUs that compute in bfloat16; the last flag is for Arm. Other CPUs emulate bfloat16
slowly."""


def enable_onednn() -> None:
    """Enable oneDNN in TensorFlow on any CPU, unless ``TF_ENABLE_ONEDNN_OPTS`` is set already.

    TensorFlow reads the variable when it is first imported. By default, it uses oneDNN only on CPUs
    with AVX-512; on other CPUs, 3D convolutions without oneDNN take twelve times as long.
    """
    os.environ.setdefault(_ONEDNN, "1")


def onednn_enabled() -> bool:
    """Return whether oneDNN is enabled in TensorFlow."""
    return os.environ.get(_ONEDNN, "").lower() in ("1", "true")


@cache
def _flags() -> frozenset[str]:
    """Return the flags of the CPU by their Linux names; empty if unknown."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _flags_of_mac()
    for line in lines:
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(words.lower().split())
    return frozenset()


def _flags_of_mac() -> frozenset[str]:
    if platform.system() != "Darwin":
        return frozenset()
    command = ["sysctl", "hw.optional.arm", "hw.optional.avx2_0", "hw.optional.avx512f"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    names = {"arm.FEAT_BF16": "bf16", "arm.AdvSIMD": "asimd", "avx2_0": "avx2"}
    on = [line.split(":")[0] for line in done.stdout.splitlines() if line.endswith(": 1")]
    found = [name.removeprefix("hw.optional.") for name in on]
    return frozenset(names.get(name, name) for name in found)


def instruction_set() -> str:
    """Return the name of the widest vector instructions of this CPU, such as AVX2, AMX or NEON."""
    flags = _flags()
    found = [name for name, needed in _SETS if flags & needed]
    if not found and platform.machine() in ("arm64", "aarch64"):
        return "NEON"  # every 64-bit Arm CPU has it; its flags may be unreadable
    return found[0] if found else "unknown instructions"


def has_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16 without emulation."""
    return bool(_flags() & _BFLOAT16)
