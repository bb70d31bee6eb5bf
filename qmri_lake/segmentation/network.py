"""Trained networks on disk: weights and a model card, checked when they are loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.segmentation.backend import backend_name, channel_axis, keras, wanted_backend
from qmri_lake.segmentation.checkpoints import CHECKPOINT
from qmri_lake.segmentation.frame import Frame
from qmri_lake.segmentation.recipes import TASKS, Recipe, Task
from qmri_lake.segmentation.vnet import build_vnet, padding
from qmri_lake.segmentation.weights import check_shapes

__all__ = ["CARD", "WEIGHTS", "Network", "find_networks"]

CARD = "card.json"
WEIGHTS = "model.weights.h5"
SLICES = 16
"""Slices that a 2D network sees at once."""
OTHER_SPACING = 0.15
"""Voxels that differ by more than this share from those of the training are refused."""


@dataclass(frozen=True)
class Network:
    """A trained network: its folder, what it was made by, and the digest of its weights.

    Light: weights are read by `predict`, once in a process, so it can be sent to workers.
    """

    folder: str
    name: str
    """As its card says: it keeps it wherever the folder goes."""
    recipe: Recipe
    digest: str
    """Of the weights, SHA-256, 12 characters."""
    dtype: str = "float32"
    """"float32", or "mixed_bfloat16" to compute in bfloat16."""
    seen: str = ""
    """Digest of what else in its card makes what it predicts, 8 characters: frame, classes,
    architecture, spacing."""
    spacing: tuple[float, float, float] | None = None
    """Of the exams that it was trained on, slice, row, column, mm; None: an older card."""

    @classmethod
    def open(cls, folder: str | Path, *, dtype: str = "float32") -> Network:
        """Open a folder with a model card and weights.

        Raises
        ------
        NotFoundError
            No card, or no weights.
        InputError
            A card or weights that can't be read, classes that this version does not know, weights
            of another architecture.
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
                expected="one that qmri-lake train wrote",
                where=f"{path.name}/{CARD}",
                reason=Reason.UNREADABLE_FILE,
            ) from error
        if classes != dict(recipe.labels) or recipe.architecture.classes != len(classes):
            raise InputError(
                f"classes {', '.join(classes)}",
                expected=f"{', '.join(recipe.labels)}",
                where=f"{path.name}/{CARD}",
                todo="Train again with this version, or use a network of these classes.",
                reason=Reason.MODEL_MISMATCH,
            )
        check_shapes(path / WEIGHTS, recipe.architecture, f"{path.name}/{WEIGHTS}")
        digest = _digest(path / WEIGHTS)
        return cls(str(path), title, recipe, digest, dtype, _seen(card), spacing)

    @property
    def card(self) -> dict[str, Any]:
        """The model card: recipe, split, snapshot of the lake, metrics, versions."""
        found: dict[str, Any] = json.loads((Path(self.folder) / CARD).read_text(encoding="utf-8"))
        return found

    @property
    def task(self) -> Task:
        """What it segments: bones or cartilage."""
        return self.recipe.task

    @property
    def frame(self) -> Frame:
        """What it sees of an exam."""
        return self.recipe.frame

    @property
    def labels(self) -> Mapping[str, int]:
        """Its classes."""
        return self.recipe.labels

    @property
    def weights_bytes(self) -> int:
        """Size of its weights."""
        return (Path(self.folder) / WEIGHTS).stat().st_size

    @property
    def identity(self) -> str:
        """Name, weights, what else in the card makes its predictions, dtype: a run records it.

        The same wherever the folder lies; an exam is stale when any of it is another.
        """
        computed = "" if self.dtype == "float32" else f" in {self.dtype.removeprefix('mixed_')}"
        return f"{self.name}@{self.digest}-{self.seen}{computed}"

    def check(self) -> None:
        """Refuse what would fail in every worker, without building the model.

        Raises
        ------
        RunError
            Keras, or the backend that it would take here, is not installed.
        NotFoundError, InputError
            Weights that are gone, or have changed since the network was opened.
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
            As `load_model`; no Keras.
        """
        with _ONE_AT_A_TIME:
            _loaded(self)

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Return class probabilities of an image as the frame shows it.

        One image at a time in a process: threads wait for each other, for the memory that
        activations take.

        Parameters
        ----------
        image : array of float32, (slice, row, column)
            Any size of at least the network's stride; a 2D network sees it slice by slice.
        spacing : (3,), optional
            Distance of voxel centres along these axes, mm: compared with what it has learned.

        Returns
        -------
        array of float32, (class, slice, row, column)
            0 to 1, summing to 1.

        Raises
        ------
        InputError
            Weights of another architecture; a volume smaller than the stride; voxels that differ
            by more than 15 % along an axis from those of its training.
        """
        if spacing is not None:
            self._check_spacing(np.divide(spacing, self.frame.shrink))
        architecture = self.recipe.architecture
        flat = architecture.rank == 2
        margins = padding(image.shape[1:] if flat else image.shape, architecture.stride)
        with _ONE_AT_A_TIME:
            return self._predicted(image, margins)

    def _check_spacing(self, spacing: NDArray[np.float64]) -> None:
        """Refuse an exam whose own voxels are of another size; not those of an older card."""
        if self.spacing is None:
            return
        if not (np.abs(spacing / self.spacing - 1) <= OTHER_SPACING).all():  # NaN fails too
            raise InputError(
                f"voxels of {_mm(spacing)}",
                expected=f"{_mm(self.spacing)} within {OTHER_SPACING:.0%}, as in its training",
                where=self.identity,
                todo="Use a network that was trained on such voxels.",
                reason=Reason.MODEL_MISMATCH,
            )

    def _predicted(
        self, image: NDArray[np.float32], margins: list[tuple[int, int]]
    ) -> NDArray[np.float32]:
        k, flat = keras(), self.recipe.architecture.rank == 2
        model = _loaded(self)
        pieces = (
            [image[s : s + SLICES] for s in range(0, len(image), SLICES)] if flat else [image[None]]
        )
        found = []
        for piece in pieces:
            batch = np.pad(piece, [(0, 0), *margins], mode="edge")
            logits = _logits(model, np.expand_dims(batch, channel_axis()))
            found.append(
                _cropped(np.moveaxis(logits, channel_axis(), -1), margins, piece.shape[1:])
            )
        logits = np.concatenate(found) if flat else found[0][0]
        del found
        probabilities = k.ops.convert_to_numpy(k.ops.softmax(logits, axis=-1))
        return np.moveaxis(probabilities, -1, 0)


def _logits(model: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a model, and let go of what each layer gave once no other layer needs it.

    TensorFlow's graph does so by itself; under torch, Keras would keep all of it to the end.
    """
    k = keras()
    if backend_name() != "torch":
        found: NDArray[np.float32] = model.predict_on_batch(batch)
        return found
    import torch

    layers = [layer for layer in model.layers if layer.output is not model.inputs[0]]
    needed = Counter(id(x) for layer in layers for x in k.tree.flatten(layer.input))
    needed[id(model.outputs[0])] += 1
    with torch.inference_mode():
        values = {id(model.inputs[0]): k.ops.convert_to_tensor(batch)}
        for layer in layers:
            inputs = [id(x) for x in k.tree.flatten(layer.input)]
            given = [values[x] for x in inputs]
            needed.subtract(inputs)
            for x in inputs:
                if not needed[x]:
                    values.pop(x, None)
            result = layer(given if len(given) > 1 else given[0])
            del given
            values[id(layer.output)] = result
            del result
        logits: NDArray[np.float32] = k.ops.convert_to_numpy(values[id(model.outputs[0])])
        return logits


def _cropped(array: Any, margins: list[tuple[int, int]], shape: tuple[int, ...]) -> Any:
    """Take the padding away from (batch, ..., class)."""
    inner = tuple(slice(b, b + n) for (b, _), n in zip(margins, shape, strict=True))
    return array[(slice(None), *inner)]


_LOADED: dict[tuple[str, str, str], Any] = {}
"""Models of this process, by folder, digest and dtype: each worker reads a network once."""
_ONE_AT_A_TIME = threading.Lock()
"""Held while a model is read or used."""


def _loaded(network: Network) -> Any:
    key = (network.folder, network.digest, network.dtype)
    if key not in _LOADED:
        _LOADED[key] = load_model(network)
    return _LOADED[key]


def forget(network: Network) -> None:
    """Let go of a network's model, and of its memory."""
    _LOADED.pop((network.folder, network.digest, network.dtype), None)


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _seen(card: Mapping[str, Any]) -> str:
    """Return a digest of the card as written, which new fields of later versions don't change."""
    parts = {name: card["recipe"][name] for name in ("architecture", "frame")}
    parts |= {name: card.get(name) for name in ("classes", "spacing")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _spacing(found: Any) -> tuple[float, float, float] | None:
    if found is None:
        return None
    a, b, c = (float(mm) for mm in found)
    if not (0 < min(a, b, c) and np.isfinite([a, b, c]).all()):
        raise ValueError(f"spacing {found}")
    return a, b, c


def _mm(spacing: Any) -> str:
    return f"{' x '.join(f'{mm:.3g}' for mm in spacing)} mm"


def _check_digest(network: Network) -> Path:
    """Return where the weights are, the same as when the network was opened."""
    path = Path(network.folder) / WEIGHTS
    if not path.is_file():
        raise NotFoundError(
            f"no {WEIGHTS}",
            expected="the folder where it was when the network was opened",
            where=network.folder,
            todo="Keep it until the run ends, where every worker can read it.",
        )
    digest = _digest(path)
    if digest != network.digest:
        raise InputError(
            f"weights {digest}",
            expected=f"{network.digest}, as when the network was opened",
            where=f"{network.name}/{WEIGHTS}",
            todo="Open the network again.",
            reason=Reason.MODEL_MISMATCH,
        )
    return path


def load_model(network: Network) -> Any:
    """Build a network's Keras model and read its weights.

    Raises
    ------
    InputError
        Weights that have changed since the network was opened, or are of another architecture.
    """
    path = _check_digest(network)
    model = build_vnet(network.recipe.architecture, dtype=network.dtype)
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that it leaves at random weights.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        raise InputError(
            f"weights that don't fit ({' '.join(str(error).split())[:120]})",
            expected=f"those of {network.recipe.architecture}",
            where=f"{network.name}/{WEIGHTS}",
            todo=f"Put the weights beside the {CARD} that they were trained with.",
            reason=Reason.MODEL_MISMATCH,
        ) from error
    return model


def _todo(path: Path) -> str:
    """Say what to do about a folder that holds no network."""
    if any(path.glob(CHECKPOINT)) or any(path.glob(f"*/{CHECKPOINT}")):
        return "Finish its training: go on with --resume."
    if inner := sorted({card.parents[1].name for card in path.glob(f"*/*/{CARD}")}):
        return f"Name one ensemble: {' or '.join(inner)} in it."
    return "Train one: qmri-lake train bones --lake ... --out ..."


def find_networks(
    models: Any, *, task: Task | None = None, dtype: str = "float32"
) -> list[Network]:
    """Open the networks of a folder, of several folders, or of Networks that are open already.

    Parameters
    ----------
    models : path, Network, or sequence of them
        A folder of a network, or one of networks, as ``qmri-lake train`` writes them.
    task : {"bones", "cartilage"}, optional
        What all of them must segment.
    dtype : str
        As in `Network`; those that are open keep theirs.

    Raises
    ------
    NotFoundError
        No network there.
    InputError
        Networks of another task than `task`.
    """
    listed = [models] if isinstance(models, (str, os.PathLike, Network)) else list(models)
    found: list[Network] = []
    for item in listed:
        if isinstance(item, Network):
            found.append(item)
            continue
        path = Path(item)
        inner = sorted(card.parent for card in path.glob(f"*/{CARD}"))
        if (path / CARD).is_file() or not inner:
            inner = [path]
        found += [Network.open(folder, dtype=dtype) for folder in inner]
    if task is not None:
        for network in found:
            if network.recipe.task != task:
                raise InputError(
                    f"a network of {network.recipe.task}",
                    expected=f"one of {task}",
                    where=network.name,
                    todo=f"Classes must be {', '.join(TASKS[task])}.",
                    reason=Reason.MODEL_MISMATCH,
                )
    if not found:
        raise NotFoundError("no network", expected="at least one", where="models")
    return found
