"""Build ResNets with torchvision's parameter names and outputs, and load their initial weights.

The networks are built by MONAI. With the options used here, MONAI's two-dimensional ResNets return
bitwise the same outputs as torchvision's, so published weights can be loaded unchanged.
"""

from __future__ import annotations

import os
import pickle
import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.text import did_you_mean
from qmri_lake.diagnosis.models.recipes import DEPTHS, FROZEN, STARTS
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError

if TYPE_CHECKING:
    import torch

__all__ = [
    "IMAGENET",
    "OUTPUTS",
    "freeze",
    "imagenet_weights",
    "load_weights",
    "make_resnet",
    "start_resnet",
]

OUTPUTS = 2
"""Number of softmax outputs: absent and present. [paper]"""
HEAD = "fc."
"""Prefix of the parameter names of the last, linear layer. All other layers are the same for every
task."""

IMAGENET: Mapping[int, str] = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
}
"""File names of torchvision's weights trained on ImageNet (IMAGENET1K_V1), by depth. They end in
the first digits of the SHA-256. [start from ImageNet: paper; choice of the weights: assumption]"""
_PUBLIC = "https://download.pytorch.org/models/"
_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_FIRST_OF_BLOCK = re.compile(r"layer\d\.\d+\.conv1\.weight")
_BLOCKS: Mapping[int, tuple[str, list[int]]] = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
}


def make_resnet(depth: int, *, seed: int = 0) -> torch.nn.Module:
    """Build a ResNet with two outputs and random weights.

    Parameters
    ----------
    depth : {18, 34, 50}
    seed : int
        Random seed of the weights, which do not depend on torch's global generator.

    Returns
    -------
    Module
        Maps images (batch, 3, azimuth, polar) float32 to logits (batch, 2): absent, present.
        Parameter names are torchvision's. The running averages of batch norm in frozen layers do
        not change during training: see `freeze`.

    Raises
    ------
    NotFoundError
        If there is no ResNet of this depth.
    """
    import torch

    _check_choice(depth, DEPTHS, "depth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(depth)
    # Without this hook, the running averages of frozen layers would change with every batch.
    model.register_forward_pre_hook(_freeze_batch_norm)
    return model


def _build(depth: int) -> torch.nn.Module:
    from monai.networks.nets.resnet import ResNet

    block, layers = _BLOCKS[depth]
    # `bias_downsample=False` and the stride of 2 give torchvision's architecture.
    model: torch.nn.Module = ResNet(
        block,
        layers,
        [64, 128, 256, 512],
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_size=7,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
        num_classes=OUTPUTS,
    )
    return model


def _freeze_batch_norm(model: torch.nn.Module, _: object) -> None:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def freeze(model: torch.nn.Module, frozen: str) -> None:
    """Freeze parts of a ResNet, and unfreeze all other parts.

    Parameters
    ----------
    model : Module
        From `make_resnet`; changed in place.
    frozen : {"none", "first", "first_two", "all"}
        See `qmri_lake.diagnosis.models.recipes.FROZEN`.

    Raises
    ------
    NotFoundError
        If the name is unknown.
    """
    _check_choice(frozen, tuple(FROZEN), "frozen part")
    parts = tuple(f"{part}." for part in FROZEN[frozen])  # type: ignore[index]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(parts))


def load_weights(
    model: torch.nn.Module,
    file: str | os.PathLike[str],
    *,
    digest: str | None = None,
    head: bool = False,
) -> str:
    """Load a state dict with torchvision's names into a ResNet, with or without the head.

    Parameters
    ----------
    model : Module
        From `make_resnet`; changed in place, but only if the weights in the file fit.
    file : path
        A state dict written by ``torch.save``: a file ``.pth`` of torchvision, or a model of this
        package. Only arrays are unpickled.
    digest : str, optional
        Expected SHA-256 of the file in hexadecimal, or its first digits. Default: the digits at
        the end of the file name, as in torchvision's names. If the name has no such digits, the
        SHA-256 is not checked.
    head : bool
        Load the last, linear layer too. Default: this layer is left unchanged, since it depends on
        the task.

    Returns
    -------
    str
        SHA-256 of the file, for the model's card.

    Raises
    ------
    NotFoundError
        If there is no such file.
    InputError
        If the file can't be read or has another digest, or if the weights belong to a ResNet of
        another depth or to another network.
    """
    import torch

    path = Path(file)
    found = _checked_digest(path, digest)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise _unreadable(path, f"{' '.join(str(error).split())[:120]}") from error
    if not isinstance(state, dict) or not all(hasattr(v, "shape") for v in state.values()):
        raise _unreadable(path, "not a state dict")
    own = model.state_dict()
    if not head:
        state = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    _check_fit(state, own, path, head=head)
    model.load_state_dict({**own, **state})
    return found


def imagenet_weights(depth: int) -> Path:
    """Return the file of torchvision's ImageNet weights, from the local cache or PyTorch's server.

    Parameters
    ----------
    depth : {18, 34, 50}

    Returns
    -------
    Path
        A file in the folder ``checkpoints`` of `torch.hub.get_dir`, which is torchvision's cache
        (``TORCH_HOME``). The file is downloaded once; `load_weights` checks its digest.

    Raises
    ------
    NotFoundError
        If there are no weights for this depth, or the file is absent and can't be downloaded.
    """
    import torch

    _check_choice(depth, DEPTHS, "depth")
    name = IMAGENET[depth]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    digits = name.rpartition("-")[2].removesuffix(".pth")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_PUBLIC + name, str(path), digits, progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        raise NotFoundError(
            f"no ImageNet weights of ResNet {depth} ({' '.join(str(error).split())[:120]})",
            expected=f"{name} at {path}, or access to its server",
            where="imagenet",
            todo="Copy the file there, pass --weights FILE, or use --start random.",
        ) from error
    return path


def start_resnet(
    depth: int,
    start: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    frozen: str = "none",
    seed: int = 0,
) -> tuple[torch.nn.Module, str]:
    """Build a ResNet and load its initial weights.

    Parameters
    ----------
    depth : {18, 34, 50}
    start : {"random", "imagenet", "oa"}
        ``imagenet``: all layers but the head are loaded. ``oa``: all layers are loaded
        [assumption].
    weights : path, optional
        A file with the weights of the model of OA, or with ImageNet weights to use instead of
        torchvision's.
    frozen : {"none", "first", "first_two", "all"}
    seed : int
        Random seed of the weights that are not loaded.

    Returns
    -------
    model : Module
    digest : str
        SHA-256 of the weights; "" for a random start.

    Raises
    ------
    NotFoundError, InputError
        For the reasons that `load_weights` and `imagenet_weights` list.
    RunError
        If weights are given for a random start, or missing for a start from OA.
    """
    _check_choice(start, STARTS, "start")
    model = make_resnet(depth, seed=seed)
    freeze(model, frozen)
    if start == "random":
        if weights is not None:
            raise RunError(
                f"weights {Path(weights).name} with start='random'",
                expected="no weights",
                where="start",
                todo="Use start imagenet or oa to load them.",
            )
        return model, ""
    if weights is None and start == "oa":
        raise RunError(
            "no weights of a model of OA",
            expected="weights of the same strategy and bone",
            where="start",
            todo="Train the models of OA first: qmri-lake train oa.",
        )
    file = imagenet_weights(depth) if weights is None else weights
    return model, load_weights(model, file, head=start == "oa")


def _checked_digest(path: Path, digest: str | None) -> str:
    try:
        found = sha256_of(path)
    except FileNotFoundError as error:
        raise NotFoundError(
            "no such file", expected="a .pth file with the state dict of a ResNet", where=str(path)
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    digits = _DIGITS.search(path.name)
    expected = digest if digest is not None else digits[1] if digits else ""
    if not found.startswith(expected.lower()):
        raise InputError(
            f"SHA-256 {found[: max(8, len(expected))]}",
            expected=expected,
            where=str(path),
            todo="The file is damaged or was renamed: copy it again.",
            reason=Reason.MODEL_MISMATCH,
        )
    return found


def _check_fit(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: Path, *, head: bool
) -> None:
    expected = {n: tuple(v.shape) for n, v in own.items() if head or not n.startswith(HEAD)}
    found = {name: tuple(value.shape) for name, value in state.items()}
    # Files written before PyTorch 0.4.1, such as torchvision's, have no batch counters.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    if {**dict.fromkeys(counters, ()), **found} == expected:
        return
    depth, other = _depth_of(expected), _depth_of(found)
    if other is not None and other != depth:
        what, todo = f"weights of a ResNet {other}", "Choose the file or the depth that matches."
    else:
        wrong = [f"no {name}" for name in sorted(set(expected) - set(found) - counters)]
        wrong += [f"an unknown {name}" for name in sorted(set(found) - set(expected))]
        wrong += [
            f"{name} of {found[name]}, not {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
        what = f"weights with {wrong[0]}" + (f", and {len(wrong) - 1} more" if wrong[1:] else "")
        todo = "Pass a state dict with torchvision's names, such as model.state_dict() returns."
    raise InputError(
        what,
        expected=f"weights of a ResNet {depth}",
        where=str(path),
        todo=todo,
        reason=Reason.MODEL_MISMATCH,
    )


def _depth_of(shapes: Mapping[str, object]) -> int | None:
    """Return the number of layers of a ResNet: all layers of blocks, the first and the last."""
    blocks = len({name for name in shapes if _FIRST_OF_BLOCK.fullmatch(name)})
    each = 3 if "layer1.0.conv3.weight" in shapes else 2
    return blocks * each + 2 if blocks else None


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"the weights can't be read ({why})",
        expected="a state dict written by torch.save",
        where=str(path),
        todo="Copy the file again.",
        reason=Reason.UNREADABLE_FILE,
    )


def _check_choice(value: object, known: tuple[object, ...], what: str) -> None:
    if value not in known:
        names = [str(name) for name in known]
        raise NotFoundError(
            f"no {what} {value!r}",
            expected=f"one of {', '.join(names)}",
            where="resnet",
            todo=did_you_mean(str(value), names),
        )
