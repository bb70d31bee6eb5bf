"""Measure the CPU time of several actions, interleaved so that machine load affects all equally."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np


def best(actions: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Return the CPU time [s] of the fastest repeat of each action."""
    seconds = dict.fromkeys(actions, np.inf)
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.process_time()
            action()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds
