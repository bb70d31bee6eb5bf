"""The command that trains: train."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmri_lake.cli.options import LakeOption, RefOption

if TYPE_CHECKING:
    from qmri_lake.segmentation.network import Network

__all__ = ["train"]

STEPS = {"bones": "segment_bones", "cartilage": "segment_cartilage"}
"""What a trained ensemble is run as."""


def train(
    task: Annotated[str, typer.Argument(metavar="bones|cartilage", help="What to segment.")],
    lake: LakeOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="MODELS", help="Folder of the ensemble.")
    ],
    preset: Annotated[
        str,
        typer.Option(metavar="paper|small", help="As published, or what a laptop can train."),
    ] = "paper",
    members: Annotated[
        int | None, typer.Option(min=1, help="Train only the first so many networks.")
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help='Exams to choose from, such as "timepoint == 0".'),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Labels to learn, of group dess; default reference_bone or reference_cartilage.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and all chance.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the last training stopped.")
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Stop each network after so many epochs at the latest."),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Learn also from exams whose labels lack a tissue: the knee itself lacks it.",
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="WHERE",
            help="auto, cpu, gpu, or a Dask scheduler such as tcp://node:8786: networks learn "
            "beside each other, one a worker. Default: this process, one network after another.",
        ),
    ] = None,
    ref: RefOption = None,
) -> int:
    """Train networks that segment bones, or cartilage and menisci, from exams with references.

    bones: five 3D V-Nets, one a loss, on one split by patient. cartilage: three 2D and three 3D
    V-Nets, each with a draw of its own. The paper preset is for a GPU and whole volumes: days. The
    small one takes minutes on 64 x 144 x 144 voxels.

    Each network is a folder of MODELS: model.weights.h5, of the epoch with the lowest validation
    loss, card.json (recipe, exams, metrics, versions), log.csv, curves.png, checkpoint.npz.
    MODELS/split.json says who trains, validates and tests: judge the networks on exams of its test
    set. MODELS/cache holds prepared volumes; remove it when all is trained.

    Exams whose labels lack a tissue are refused, since it would be learned as background; so is a
    disk without room for the prepared volumes, before the first is written.

    Ctrl-C leaves the checkpoint of the last epoch: the same command with --resume goes on from
    there as if it had never stopped.

    Then: qmri-lake run segment_bones --lake LAKE --set models=MODELS
    """
    from qmri_lake.cli import Stopped
    from qmri_lake.cli.progress import console, training_bar
    from qmri_lake.lake import open_lake
    from qmri_lake.segmentation.training import SPLIT, train_ensemble

    opened = open_lake(lake, ref=ref, mode="r")
    try:
        with training_bar() as bar:
            networks = train_ensemble(
                opened, task, preset=preset, out=out, members=members, cohort=cohort,
                target=target, seed=seed, resume=resume, epochs=epochs,
                progress=bar.epoch, preparing=bar.preparing, allow_missing=allow_missing,
                cluster=cluster,
                announce=lambda line: bar.bars.console.print(line, soft_wrap=True),
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped; {out} keeps the last epoch that was finished: the same command with "
            "--resume goes on from there"
        ) from None
    _show(networks)
    console.print(f"\ntest exams are in {out / SPLIT}")
    quoted = shlex.quote(str(out))
    console.print(
        f"next: qmri-lake run {STEPS[task]} --lake {shlex.quote(lake)} --set models={quoted}",
        soft_wrap=True,
    )
    return 0


def _show(networks: Sequence[Network]) -> None:
    """Print a row a network: the epoch that was kept, and how well it does on validation exams."""
    from rich import box
    from rich.table import Table

    from qmri_lake.cli.progress import console

    tissues = [name for name in networks[0].labels if name != "background"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("network")
    for name in ("loss", "best epoch", *(f"DSC {tissue}" for tissue in tissues)):
        table.add_column(name, justify="left" if name == "loss" else "right")
    for network in networks:
        card = network.card
        dsc = [card["validation_dsc"][tissue] for tissue in tissues]
        table.add_row(
            network.name, network.recipe.loss, f"{card['best_epoch']} of {card['epochs']}",
            *("–" if value is None else f"{value:.3f}" for value in dsc),
        )  # fmt: skip
    console.print("On the validation exams, as the network sees them:", style="bold")
    console.print(table)
