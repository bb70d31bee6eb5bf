"""Tasks that take hours and send messages, such as the progress of a training, while they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from qmri_lake.execution.dask_types import DaskClient
from qmri_lake.execution.workers import POLL, WorkerCheck, await_workers, gpu_resources

__all__ = ["map_with_messages"]

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
Message = list[object] | dict[str, object] | str | float
"""Message of a running task, of the types that Dask's event log supports."""


def map_with_messages(
    work: Callable[[Callable[[Any], None], TaskT], ResultT],
    tasks: Sequence[TaskT],
    *,
    client: DaskClient,
    listen: Callable[[Any], None],
    gpu: bool = False,
) -> list[ResultT]:
    """Run ``work(send, task)`` for tasks that take hours; return the results in the same order.

    Messages that a task sends (lists, dicts, strings, numbers) are passed to `listen`, in this
    thread, while the tasks run. If a task fails, its error is raised after the other tasks have
    finished. If several fail, the first error is raised.
    """
    await_workers(client)
    topic = f"qmri-lake-{uuid4().hex}"
    messages: SimpleQueue[Message] = SimpleQueue()
    client.subscribe_topic(topic, lambda event: messages.put(event[1]))
    resources = gpu_resources(client, gpu)
    check = WorkerCheck(client, resources)
    futures = [
        client.submit(_with_messages, work, topic, task, pure=False, **resources) for task in tasks
    ]
    try:
        while True:
            ended = all(future.done() for future in futures)
            try:
                listen(messages.get(timeout=POLL))
            except Empty:
                if ended:
                    break
                check.check()
        return [future.result() for future in futures]
    finally:
        client.unsubscribe_topic(topic)
        client.cancel(futures)  # if this process is interrupted, some tasks still wait


def _with_messages(
    work: Callable[[Callable[[Message], None], TaskT], ResultT], topic: str, task: TaskT
) -> ResultT:
    from distributed import get_worker

    worker = get_worker()
    return work(lambda message: worker.log_event(topic, message), task)
