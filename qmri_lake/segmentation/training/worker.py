"""Training of the members of an ensemble, in this process or in parallel on a cluster."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from qmri_lake.core.json_types import JsonObject
from qmri_lake.execution.cluster import running
from qmri_lake.execution.task_messages import map_with_messages
from qmri_lake.lake.split_by_patient import Split
from qmri_lake.segmentation.models.network import Network
from qmri_lake.segmentation.models.recipes import Recipe
from qmri_lake.segmentation.training.loop import train
from qmri_lake.segmentation.training.model_card import refuse_existing

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster

    from qmri_lake.lake.lake import Lake

    DaskCluster: TypeAlias = str | Client | Cluster

__all__ = ["Listener", "MemberTask", "Message", "train_member", "train_on_cluster"]


class EpochMessage(TypedDict):
    """The end of an epoch; `done` has the fields of an `EpochDone`."""

    kind: Literal["epoch"]
    done: JsonObject


class PreparedMessage(TypedDict):
    """Progress of the preparation of volumes: number of prepared exams, and of all exams."""

    kind: Literal["prepared"]
    name: str
    done: int
    total: int


class AnnouncedMessage(TypedDict):
    """A line of text for the user."""

    kind: Literal["announced"]
    line: str


Message: TypeAlias = EpochMessage | PreparedMessage | AnnouncedMessage
"""Messages are sent from workers as plain values, since Dask's topics transfer no other objects."""
Listener: TypeAlias = Callable[[Message], None]
"""Function that receives the messages of the networks that are trained."""


@dataclass(frozen=True)
class MemberTask:
    """One network of an ensemble to train, with the arguments of `train` in `training.loop`."""

    ensemble: str
    """Folder of the ensemble. It contains a folder for each network, and prepared volumes in
    ``cache``."""
    name: str
    recipe: Recipe
    split: Split
    target: str
    seed: int
    resume: bool
    epochs: int | None
    allow_missing: bool


def train_member(lake: Lake, member: MemberTask, listener: Listener) -> Network:
    """Train a network of an ensemble in this process, and pass its messages to `listener`."""
    name, folder = member.name, Path(member.ensemble)
    network = train(
        lake,
        member.recipe,
        member.split,
        folder / name,
        target=member.target,
        seed=member.seed,
        resume=member.resume,
        epochs=member.epochs,
        cache=folder / "cache",
        allow_missing=member.allow_missing,
        progress=lambda done: listener({"kind": "epoch", "done": asdict(done)}),
        preparing=lambda done, total: listener(
            {"kind": "prepared", "name": name, "done": done, "total": total}
        ),
        announce=lambda line: listener({"kind": "announced", "line": line}),
    )
    gc.collect()  # models contain reference cycles, which would keep their memory
    return network


def train_on_cluster(
    lake: Lake, members: Sequence[MemberTask], listener: Listener, cluster: DaskCluster
) -> list[Network]:
    """Train networks on a cluster, one per worker, and pass their messages to `listener`."""
    from qmri_lake.lake.lake import open_lake

    for member in members:
        if not member.resume:
            refuse_existing(Path(member.ensemble) / member.name)
    location, snapshot = lake.location, lake.snapshot

    def train_there(worker_listener: Listener, member: MemberTask) -> None:
        train_member(open_lake(location, ref=snapshot), member, worker_listener)

    # If a worker dies, another worker resumes from its checkpoint.
    resumable = [
        replace(member, ensemble=str(Path(member.ensemble).absolute()), resume=True)
        for member in members
    ]
    with running(cluster) as client:
        map_with_messages(train_there, resumable, client=client, listen=listener, gpu=True)
    return [Network.open(Path(member.ensemble) / member.name) for member in members]
