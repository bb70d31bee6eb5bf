"""The commands that train: bones, cartilage; those of classifiers are beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmri_lake.cli import train_classifiers as classifiers
from qmri_lake.cli.options import (
    ClusterOption,
    CohortOption,
    EpochsOption,
    LakeOption,
    OutOption,
    PresetOption,
    RefOption,
    ResumeOption,
    SeedOption,
)
from qmri_lake.cli.trained import next_step, result_table, stopped

if TYPE_CHECKING:
    from qmri_lake.segmentation.network import Network

__all__ = ["commands"]

MembersOption = Annotated[
    int | None, typer.Option(min=1, help="Train only the first so many networks.")
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Labels to learn, of group dess; default reference_bone or reference_cartilage.",
    ),
]
MissingOption = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Learn also from exams whose labels lack a tissue: the knee itself lacks it.",
    ),
]


def bones(
    lake: LakeOption,
    out: OutOption,
    preset: PresetOption = "paper",
    members: MembersOption = None,
    cohort: CohortOption = None,
    target: TargetOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    epochs: EpochsOption = None,
    allow_missing: MissingOption = False,
    cluster: ClusterOption = None,
    ref: RefOption = None,
) -> int:
    """Train networks that segment bones, from exams with references.

    Five 3D V-Nets, one a loss, on one split by patient. The paper preset is for a GPU and whole
    volumes: days. The small one takes minutes on 64 x 144 x 144 voxels.

    Each network is a folder of MODELS: model.weights.h5, of the epoch with the lowest validation
    loss, card.json (recipe, exams, metrics, versions), log.csv, curves.png, checkpoint.npz.
    MODELS/split.json says who trains, validates and tests: judge the networks on exams of its test
    set. MODELS/cache holds prepared volumes; remove it when all is trained.

    Exams whose labels lack a tissue are refused, since it would be learned as background; so is a
    disk without room for the prepared volumes, before the first is written.

    With --cluster networks learn beside each other, one a GPU, or one a worker.

    Ctrl-C leaves the checkpoint of the last epoch: the same command with --resume goes on from
    there as if it had never stopped.

    Then: qmri-lake run segment_bones --lake LAKE --set models=MODELS
    """
    return _networks(
        "bones", lake, out, ref, preset=preset, members=members, cohort=cohort, target=target,
        seed=seed, resume=resume, epochs=epochs, allow_missing=allow_missing, cluster=cluster,
    )  # fmt: skip


def cartilage(
    lake: LakeOption,
    out: OutOption,
    preset: PresetOption = "paper",
    members: MembersOption = None,
    cohort: CohortOption = None,
    target: TargetOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
    epochs: EpochsOption = None,
    allow_missing: MissingOption = False,
    cluster: ClusterOption = None,
    ref: RefOption = None,
) -> int:
    """Train networks that segment cartilage and menisci, likewise.

    Three 2D and three 3D V-Nets, each with a draw of its own from one pool, and one test set.

    Then: qmri-lake run segment_cartilage --lake LAKE --set models=MODELS
    """
    return _networks(
        "cartilage", lake, out, ref, preset=preset, members=members, cohort=cohort, target=target,
        seed=seed, resume=resume, epochs=epochs, allow_missing=allow_missing, cluster=cluster,
    )  # fmt: skip


def commands() -> typer.Typer:
    """Build the group of commands."""
    group = typer.Typer(
        help="Train networks that segment, and classifiers of spherical maps.",
        rich_markup_mode="markdown",
        no_args_is_help=True,
    )
    for function in (bones, cartilage, classifiers.oa, classifiers.pain, classifiers.search):
        group.command()(function)
    return group


def _networks(task: str, lake: str, out: Path, ref: str | None, **options: Any) -> int:
    from qmri_lake.cli.progress import console, training_bar
    from qmri_lake.lake import open_lake
    from qmri_lake.segmentation.training import SPLIT, train_ensemble

    opened = open_lake(lake, ref=ref, mode="r")
    try:
        with training_bar() as bar:
            networks = train_ensemble(
                opened, task, out=out, progress=bar.epoch, preparing=bar.preparing,
                announce=lambda line: bar.bars.console.print(line, soft_wrap=True), **options,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise stopped(out, "the last epoch that was finished") from None
    _show_networks(networks)
    console.print(f"\ntest exams are in {out / SPLIT}")
    next_step(f"segment_{task}", lake, out)
    return 0


def _show_networks(networks: Sequence[Network]) -> None:
    """Print a row a network: the epoch that was kept, and how well it does on validation exams."""
    from qmri_lake.cli.progress import console

    tissues = [name for name in networks[0].labels if name != "background"]
    table = result_table("network", "loss", "best epoch", *(f"DSC {tissue}" for tissue in tissues))
    for network in networks:
        card = network.card
        dsc = [card["validation_dsc"][tissue] for tissue in tissues]
        table.add_row(
            network.name, network.recipe.loss, f"{card['best_epoch']} of {card['epochs']}",
            *("–" if value is None else f"{value:.3f}" for value in dsc),
        )  # fmt: skip
    console.print("On the validation exams, as the network sees them:", style="bold")
    console.print(table)
