"""Types of the parts of Dask that runs use: clients, futures and workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["DaskClient", "TaskFuture", "Worker"]


class TaskFuture(Protocol):
    """The part of `distributed.Future` that is used here."""

    key: str
    status: str

    def result(self) -> Any:
        """Wait for the result, or raise the error of the task."""

    def exception(self) -> BaseException | None:
        """Wait for the end of the task, and return its error or None."""

    def done(self) -> bool:
        """Return whether the task has ended."""

    def cancel(self) -> None:
        """Cancel the task."""

    def release(self) -> None:
        """Drop the result."""

    def add_done_callback(self, fn: Callable[[TaskFuture], object]) -> None:
        """Call `fn` when the task ends."""


class Scheduler(Protocol):
    """The address of a scheduler."""

    address: str


class DaskClient(Protocol):
    """The part of `distributed.Client` that is used here."""

    @property
    def cluster(self) -> object:
        """Cluster of the client; None if the client was created from an address."""

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler."""

    def scheduler_info(self, *, n_workers: int) -> Mapping[str, Mapping[str, Worker]]:
        """Return a mapping whose item ``"workers"`` contains the workers by address."""

    def nthreads(self) -> Mapping[str, int]:
        """Return the number of threads by worker."""

    def submit(self, fn: Callable[..., object], *args: object, **options: object) -> TaskFuture:
        """Submit a task."""

    def run(self, fn: Callable[..., object], *args: object, on_error: str = "raise") -> object:
        """Call a function on every worker."""

    def cancel(self, futures: Sequence[TaskFuture]) -> None:
        """Cancel tasks."""

    def subscribe_topic(self, topic: str, handler: Callable[[Any], object]) -> None:
        """Call `handler` with each event of a topic."""

    def unsubscribe_topic(self, topic: str) -> None:
        """End a subscription."""


Worker = Mapping[str, Any]
"""The scheduler's information about a worker."""
