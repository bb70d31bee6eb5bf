"""Members of an ensemble while they learn: in this process, or beside each other on a cluster."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmri_lake.compute import map_telling, running
from qmri_lake.segmentation.model_card import refuse_another
from qmri_lake.segmentation.network import Network
from qmri_lake.segmentation.recipes import Recipe
from qmri_lake.segmentation.splits import Split
from qmri_lake.segmentation.train import train

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["Listen", "Member", "train_beside", "train_member"]

Listen = Callable[[Mapping[str, Any]], None]
"""Takes what a member tells: its ``kind`` is prepared, announced or epoch."""


@dataclass(frozen=True)
class Member:
    """What a member of an ensemble learns, and how: as in `qmri_lake.segmentation.train.train`."""

    ensemble: str
    """Folder; the member's own is in it, and prepared volumes are in ``cache``."""
    name: str
    recipe: Recipe
    split: Split
    target: str
    seed: int
    resume: bool
    epochs: int | None
    allow_missing: bool


def train_member(lake: Lake, member: Member, tell: Listen) -> Network:
    """Train a member in this process, and tell how far it is."""
    name, folder = member.name, Path(member.ensemble)
    network = train(
        lake, member.recipe, member.split, folder / name, target=member.target, seed=member.seed,
        resume=member.resume, epochs=member.epochs, cache=folder / "cache",
        allow_missing=member.allow_missing,
        progress=lambda done: tell({"kind": "epoch", "done": asdict(done)}),
        preparing=lambda done, total: tell(
            {"kind": "prepared", "name": name, "done": done, "total": total}
        ),
        announce=lambda line: tell({"kind": "announced", "line": line}),
    )  # fmt: skip
    gc.collect()  # a model is full of cycles: its memory would stay until the next collection
    return network


def train_beside(
    lake: Lake, members: Sequence[Member], tell: Listen, cluster: Any
) -> list[Network]:
    """Train members on a cluster, one a worker, and pass on here what they tell there."""
    from qmri_lake.lake import open_lake

    for member in members:
        if not member.resume:
            refuse_another(Path(member.ensemble) / member.name)
    location, snapshot = lake.location, lake.snapshot

    def work(say: Listen, member: Member) -> None:
        train_member(open_lake(location, ref=snapshot), member, say)

    # Where a worker dies, another one goes on from its checkpoint.
    resumable = [
        replace(member, ensemble=str(Path(member.ensemble).absolute()), resume=True)
        for member in members
    ]
    with running(cluster) as client:
        map_telling(work, resumable, client=client, listen=tell, gpu=True)
    return [Network.open(Path(member.ensemble) / member.name) for member in members]
