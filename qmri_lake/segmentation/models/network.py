"""Trained networks on disk: weights and a model card, which are checked when they are opened."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.model_folder import CARD, CHECKPOINT
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.segmentation.models.backend import (
    channel_axis,
    check_dtype,
    keras,
    wanted_backend,
)
from qmri_lake.segmentation.models.forward import compute_logits
from qmri_lake.segmentation.models.keras_types import KerasModel
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import TASKS, Recipe, Task
from qmri_lake.segmentation.models.vnet import build_vnet, padding
from qmri_lake.segmentation.models.weights import check_shapes

__all__ = ["WEIGHTS", "Network", "find_networks"]

WEIGHTS = "model.weights.h5"
SLICES = 16
"""Slices per batch of a 2D network."""
SPACING_TOLERANCE = 0.15
"""Largest relative difference between the voxel size of an exam and that of the training exams."""


@dataclass(frozen=True)
class Network:
    """A trained network: its folder, its recipe, and the digest of its weights.

    The object is small and can be sent to workers: `predict` reads the weights once per process.
    """

    folder: str
    name: str
    """Name in the model card; it does not change if the folder is moved."""
    recipe: Recipe
    digest: str
    """SHA-256 of the weights, first 12 characters."""
    dtype: str = "float32"
    """"float32", or "mixed_bfloat16" to compute in bfloat16."""
    settings_digest: str = ""
    """Digest of the entries of the card that affect predictions, 8 characters: frame, classes,
    architecture, spacing."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size of the training exams (slice, row, column), mm; None if an older card lacks it."""

    @classmethod
    def open(cls, folder: str | Path, *, dtype: str = "float32") -> Network:
        """Open a folder with a model card and weights.

        Raises
        ------
        NotFoundError
            If the card or the weights are missing.
        InputError
            If a file cannot be read, if the classes are not those of this version, or if the
            weights belong to another architecture.
        """
        path = Path(folder).resolve()
        for name in (CARD, WEIGHTS):
            if not (path / name).is_file():
                raise NotFoundError(
                    f"no {name}",
                    expected=f"a folder with {CARD} and {WEIGHTS}",
                    where=str(folder),
                    todo=_todo(path),
                )
        try:
            card = json.loads((path / CARD).read_text(encoding="utf-8"))
            recipe = Recipe.from_dict(card["recipe"])
            classes, title = dict(card["classes"]), str(card.get("name", path.name))
            spacing = _spacing(card.get("spacing"))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"a card that can't be read ({type(error).__name__}: {error})",
                expected="a card written by qmri-lake train",
                where=f"{path.name}/{CARD}",
                reason=Reason.UNREADABLE_FILE,
            ) from error
        if classes != dict(recipe.labels) or recipe.architecture.classes != len(classes):
            raise InputError(
                f"classes {', '.join(classes)}",
                expected=f"{', '.join(recipe.labels)}",
                where=f"{path.name}/{CARD}",
                todo="Train again with this version, or use a network with these classes.",
                reason=Reason.MODEL_MISMATCH,
            )
        check_shapes(path / WEIGHTS, recipe.architecture, f"{path.name}/{WEIGHTS}")
        digest = sha256_of(path / WEIGHTS)[:12]
        return cls(str(path), title, recipe, digest, dtype, _settings_digest(card), spacing)

    @property
    def card(self) -> JsonObject:
        """The model card: recipe, split, snapshot of the lake, metrics, versions."""
        card: JsonObject = json.loads((Path(self.folder) / CARD).read_text(encoding="utf-8"))
        return card

    @property
    def learned_from(self) -> set[int] | None:
        """Patients of the training and validation sets; None if the card does not list them."""
        split = self.card.get("split")
        if not split:
            return None
        keys = [key for name, part in split.items() if name != "test" for key in part]
        return {int(str(key).partition("-")[0]) for key in keys}

    @property
    def task(self) -> Task:
        """Bones or cartilage."""
        return self.recipe.task

    @property
    def frame(self) -> NetworkView:
        """Flip, crop and scaling of the network's input."""
        return self.recipe.frame

    @property
    def labels(self) -> Mapping[str, int]:
        """Label value of each class, by name."""
        return self.recipe.labels

    @property
    def weights_bytes(self) -> int:
        """Size of the file of weights, bytes."""
        return (Path(self.folder) / WEIGHTS).stat().st_size

    @property
    def identity(self) -> str:
        """Name, digests of weights and settings, and dtype, as recorded by a run.

        It does not depend on the folder in which the network is stored. An exam is stale if any
        part of the identity differs.
        """
        precision = "" if self.dtype == "float32" else f" in {self.dtype.removeprefix('mixed_')}"
        return f"{self.name}@{self.digest}-{self.settings_digest}{precision}"

    def check(self) -> None:
        """Check for faults that would occur in every worker, without building the model.

        Raises
        ------
        RunError
            If Keras or its backend is not installed.
        NotFoundError, InputError
            If the weights are missing, or have changed since the network was opened.
        """
        wanted = wanted_backend()
        if missing := [n for n in ("keras", wanted) if importlib.util.find_spec(n) is None]:
            raise RunError(
                f"no {missing[0]}",
                expected=f"Keras with {wanted}",
                where=self.identity,
                todo="pip install 'qmri-lake[segmentation]', or set KERAS_BACKEND.",
            )
        _check_digest(self)

    def load(self) -> None:
        """Build the model and read its weights, unless this process has done so already.

        Raises
        ------
        NotFoundError, InputError, RunError
            As for `load_model`, and if Keras is not installed.
        """
        with _MODEL_LOCK:
            _cached_model(self)

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Return class probabilities of an image that was transformed by `frame`.

        A process computes one image at a time to limit the memory of the activations. Meanwhile,
        other threads wait.

        Parameters
        ----------
        image : array of float32, (slice, row, column)
            Any size of at least the stride of the network. A 2D network computes slice by slice.
        spacing : (3,), optional
            Distance between voxel centres along these axes, mm. It is compared with the voxel size
            of the training exams.

        Returns
        -------
        array of float32, (class, slice, row, column)
            0 to 1, with sum 1 over the classes.

        Raises
        ------
        InputError
            If the weights belong to another architecture, the volume is smaller than the stride, or
            the voxel size along an axis differs from that of the training by more than 15 %.
        """
        if spacing is not None:
            self._check_spacing(np.divide(spacing, self.frame.shrink))
        architecture = self.recipe.architecture
        flat = architecture.rank == 2
        margins = padding(image.shape[1:] if flat else image.shape, architecture.stride)
        with _MODEL_LOCK:
            return self._predict(image, margins)

    def _check_spacing(self, spacing: NDArray[np.float64]) -> None:
        """Raise an InputError for another voxel size, unless an older card lacks the voxel size."""
        if self.spacing is None:
            return
        if not (np.abs(spacing / self.spacing - 1) <= SPACING_TOLERANCE).all():  # NaN fails too
            raise InputError(
                f"voxels of {_mm(spacing)}",
                expected=f"{_mm(self.spacing)} within {SPACING_TOLERANCE:.0%}, as in its training",
                where=self.identity,
                todo="Use a network that was trained with this voxel size.",
                reason=Reason.MODEL_MISMATCH,
            )

    def _predict(
        self, image: NDArray[np.float32], margins: list[tuple[int, int]]
    ) -> NDArray[np.float32]:
        k, flat = keras(), self.recipe.architecture.rank == 2
        model = _cached_model(self)
        pieces = (
            [image[s : s + SLICES] for s in range(0, len(image), SLICES)] if flat else [image[None]]
        )
        outputs = []
        for piece in pieces:
            batch = np.pad(piece, [(0, 0), *margins], mode="edge")
            logits = compute_logits(
                model, np.expand_dims(batch, channel_axis()), self.recipe.architecture, self.dtype
            )
            outputs.append(
                _without_padding(np.moveaxis(logits, channel_axis(), -1), margins, piece.shape[1:])
            )
        logits = np.concatenate(outputs) if flat else outputs[0][0]
        del outputs
        probabilities = k.ops.convert_to_numpy(k.ops.softmax(logits, axis=-1))
        return np.moveaxis(probabilities, -1, 0)


def _without_padding(
    array: NDArray[np.float32], margins: list[tuple[int, int]], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Remove the padding from (batch, ..., class)."""
    inner = tuple(slice(b, b + n) for (b, _), n in zip(margins, shape, strict=True))
    return array[(slice(None), *inner)]


_MODELS: dict[tuple[str, str, str], KerasModel] = {}
"""Models of this process, by folder, digest and dtype: each worker reads a network once."""
_MODEL_LOCK = threading.Lock()
"""Lock that is held while a model is read or used."""


def _cached_model(network: Network) -> KerasModel:
    key = (network.folder, network.digest, network.dtype)
    if key not in _MODELS:
        _MODELS[key] = load_model(network)
    return _MODELS[key]


def forget(network: Network) -> None:
    """Free the memory of a network's model."""
    _MODELS.pop((network.folder, network.digest, network.dtype), None)


def _settings_digest(card: JsonMapping) -> str:
    """Return a digest of the stored entries, which fields of later versions do not change."""
    parts = {name: card["recipe"][name] for name in ("architecture", "frame")}
    parts |= {name: card.get(name) for name in ("classes", "spacing")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _spacing(value: Iterable[float] | None) -> tuple[float, float, float] | None:
    if value is None:
        return None
    a, b, c = (float(mm) for mm in value)
    if not (0 < min(a, b, c) and np.isfinite([a, b, c]).all()):
        raise ValueError(f"spacing {value}")
    return a, b, c


def _mm(spacing: Iterable[float]) -> str:
    return f"{' x '.join(f'{mm:.3g}' for mm in spacing)} mm"


def _check_digest(network: Network) -> Path:
    """Return the path of the weights, after checking that they have not changed."""
    path = Path(network.folder) / WEIGHTS
    if not path.is_file():
        raise NotFoundError(
            f"no {WEIGHTS}",
            expected="the same folder as when the network was opened",
            where=network.folder,
            todo="Keep this folder until the run ends, where every worker can read it.",
        )
    digest = sha256_of(path)[:12]
    if digest != network.digest:
        raise InputError(
            f"weights with digest {digest}",
            expected=f"{network.digest}, as when the network was opened",
            where=f"{network.name}/{WEIGHTS}",
            todo="Open the network again.",
            reason=Reason.MODEL_MISMATCH,
        )
    return path


def load_model(network: Network) -> KerasModel:
    """Build the Keras model of a network and read its weights.

    Raises
    ------
    InputError
        If the weights have changed since the network was opened, or belong to another architecture.
    RunError
        If the dtype is bfloat16 and the CPU has no hardware for it.
    """
    path = _check_digest(network)
    check_dtype(network.dtype)
    model = build_vnet(network.recipe.architecture, dtype=network.dtype)
    try:
        with warnings.catch_warnings():
            # Keras only warns if it leaves random weights in a layer.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        raise InputError(
            f"weights that don't fit ({' '.join(str(error).split())[:120]})",
            expected=f"weights of {network.recipe.architecture}",
            where=f"{network.name}/{WEIGHTS}",
            todo=f"Put the weights beside the {CARD} of the same training.",
            reason=Reason.MODEL_MISMATCH,
        ) from error
    return model


def _todo(path: Path) -> str:
    """Return advice for a folder without a network."""
    if any(path.glob(CHECKPOINT)) or any(path.glob(f"*/{CHECKPOINT}")):
        return "Finish the training with --resume."
    if inner := sorted({card.parents[1].name for card in path.glob(f"*/*/{CARD}")}):
        return f"Give the folder of one ensemble: {' or '.join(inner)}."
    return "Train a network: qmri-lake train bones --lake ... --out ..."


def find_networks(
    models: str | os.PathLike[str] | Network | Iterable[str | os.PathLike[str] | Network],
    *,
    task: Task | None = None,
    dtype: str = "float32",
) -> list[Network]:
    """Open the networks in one or several folders; open networks are returned unchanged.

    Parameters
    ----------
    models : path, Network, or sequence of them
        Folders written by ``qmri-lake train``, with one or several networks, or open networks.
    task : {"bones", "cartilage"}, optional
        The task that all of them must have.
    dtype : str
        As in `Network`; open networks keep their own dtype.

    Raises
    ------
    NotFoundError
        If there is no network.
    InputError
        If a network has another task.
    """
    listed = [models] if isinstance(models, (str, os.PathLike, Network)) else list(models)
    networks: list[Network] = []
    for item in listed:
        if isinstance(item, Network):
            networks.append(item)
            continue
        path = Path(item)
        inner = sorted(card.parent for card in path.glob(f"*/{CARD}"))
        if (path / CARD).is_file() or not inner:
            inner = [path]
        networks += [Network.open(folder, dtype=dtype) for folder in inner]
    if task is not None:
        for network in networks:
            if network.recipe.task != task:
                raise InputError(
                    f"a network for {network.recipe.task}",
                    expected=f"a network for {task}",
                    where=network.name,
                    todo=f"The classes must be {', '.join(TASKS[task])}.",
                    reason=Reason.MODEL_MISMATCH,
                )
    if not networks:
        raise NotFoundError("no network", expected="at least one network", where="models")
    return networks
