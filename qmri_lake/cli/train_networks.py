"""The commands ``train bones`` and ``train cartilage``, and the group of commands ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from qmri_lake.cli import train_classifiers as classifiers
from qmri_lake.cli._options import TrainingOptions, choose_exams, expand_options
from qmri_lake.cli._results import next_step, result_table, stopped

if TYPE_CHECKING:
    from qmri_lake.segmentation.models.network import Network

__all__ = ["NetworkOptions", "bones", "cartilage", "commands"]


@dataclass(frozen=True)
class NetworkOptions(TrainingOptions):
    """Options of the commands that train segmentation networks."""

    members: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train only this number of networks of the ensemble (default: all)."
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Variable with the labels in the group dess (default: reference_bone or "
            "reference_cartilage).",
        ),
    ] = None
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Also use exams whose labels lack a tissue. Set this only if the knees themselves "
            "lack the tissue.",
        ),
    ] = False


def bones(options: NetworkOptions) -> int:
    """Train networks that segment bones, on exams with reference masks.

    Trains five 3D V-Nets, one per loss function, with one split by patient. The preset paper needs
    a GPU and takes days on whole volumes. The preset small takes minutes on 64 x 144 x 144 voxels.

    The folder of each network contains model.weights.h5 (the epoch with the lowest validation
    loss), card.json (recipe, exams, metrics, versions), log.csv, curves.png and checkpoint.npz.
    MODELS/split.json lists training, validation and test exams: evaluate the networks on the test
    exams. MODELS/cache contains prepared volumes; delete it when all networks are trained.

    Exams whose labels lack a tissue raise an error, because the tissue would be learned as
    background. Too little disk space for the prepared volumes raises an error at the start.

    With --cluster, networks are trained in parallel, one per GPU or one per worker.

    Ctrl-C stops the training. The same command with --resume resumes it from the last completed
    epoch, and gives the same result as an uninterrupted training.

    Next: qmri-lake run segment_bones --lake LAKE --set models=MODELS
    """
    return _train("bones", options)


def cartilage(options: NetworkOptions) -> int:
    """Train networks that segment cartilage and menisci, on exams with reference masks.

    Trains three 2D and three 3D V-Nets. All networks share one test set. The training and
    validation exams of each network are drawn from the remaining exams. Files and options are as in
    train bones.

    Next: qmri-lake run segment_cartilage --lake LAKE --set models=MODELS
    """
    return _train("cartilage", options)


def commands() -> typer.Typer:
    """Build the group of commands."""
    group = typer.Typer(
        help="Train segmentation networks, and classifiers of spherical maps.",
        rich_markup_mode="markdown",
        no_args_is_help=True,
    )
    for function in (bones, cartilage, classifiers.oa, classifiers.pain, classifiers.search):
        group.command()(expand_options(function))
    return group


def _train(task: str, options: NetworkOptions) -> int:
    from qmri_lake.cli._progress import console, training_bar
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.segmentation.training.ensemble import SPLIT, train_ensemble

    lake = open_lake(options.lake, ref=options.ref, mode="r")
    try:
        with training_bar() as bar:
            networks = train_ensemble(
                lake,
                task,
                out=options.out,
                preset=options.preset,
                members=options.members,
                cohort=choose_exams(lake, options.cohort),
                target=options.target,
                seed=options.seed,
                resume=options.resume,
                epochs=options.epochs,
                allow_missing=options.allow_missing,
                cluster=options.cluster,
                progress=bar.epoch,
                preparing=bar.preparing,
                announce=lambda line: bar.bars.console.print(line),
            )
    except KeyboardInterrupt:
        raise stopped(options.out, "the last finished epoch") from None
    _show_networks(networks)
    console.print(f"\ntest exams are listed in {options.out / SPLIT}")
    next_step(f"segment_{task}", options.lake, options.out)
    return 0


def _show_networks(networks: Sequence[Network]) -> None:
    """Print one row per network: the best epoch, and its DSC on the validation exams."""
    from qmri_lake.cli._progress import console

    tissues = [name for name in networks[0].labels if name != "background"]
    table = result_table("network", "loss", "best epoch", *(f"DSC {tissue}" for tissue in tissues))
    for network in networks:
        card = network.card
        dsc = [card["validation_dsc"][tissue] for tissue in tissues]
        table.add_row(
            network.name,
            network.recipe.loss,
            f"{card['best_epoch']} of {card['epochs']}",
            *("–" if value is None else f"{value:.3f}" for value in dsc),
        )
    console.print("DSC on the validation exams, on the grid of the network:", style="bold")
    console.print(table)
