"""ResNets with torchvision's names and values, and the weights that they start from.

MONAI builds them; with the right options its two-dimensional ResNets are torchvision's, to the bit,
so that weights which the field has published load unchanged.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmri_lake.diagnosis.recipes import DEPTHS, FROZEN, STARTS
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError, did_you_mean

if TYPE_CHECKING:
    import torch

__all__ = [
    "IMAGENET", "OUTPUTS", "digest_of", "freeze", "imagenet_weights", "load_weights",
    "make_resnet", "start_resnet",
]  # fmt: skip

OUTPUTS = 2
"""Absent and present: of a softmax. [paper]"""
HEAD = "fc."
"""The linear layer; everything before it is the same whatever is told."""

IMAGENET: Mapping[int, str] = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
}
"""Torchvision's weights learned from ImageNet (IMAGENET1K_V1), by depth: names of files, which end
in the first digits of their SHA-256. [paper: an ImageNet start; which one: assumption]"""
_PUBLIC = "https://download.pytorch.org/models/"
_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_FIRST_OF_BLOCK = re.compile(r"layer\d\.\d+\.conv1\.weight")
_BLOCKS: Mapping[int, tuple[str, list[int]]] = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
}


def make_resnet(depth: int, *, seed: int = 0) -> torch.nn.Module:
    """Build a ResNet of two outputs, with weights drawn at random by a seed.

    Parameters
    ----------
    depth : {18, 34, 50}
    seed : int
        The same one gives the same weights, whatever has been drawn before.

    Returns
    -------
    Module
        Images (batch, 3, azimuth, polar) float32 to logits (batch, 2): absent, present. Names of
        its parameters are torchvision's. Batch norm of layers that `freeze` froze keeps its
        averages while training.

    Raises
    ------
    NotFoundError
        Another depth.
    """
    import torch

    _known(depth, DEPTHS, "depth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(depth)
    # A frozen layer whose averages moved with every batch would not be frozen.
    model.register_forward_pre_hook(_hold_averages)
    return model


def _build(depth: int) -> torch.nn.Module:
    from monai.networks.nets.resnet import ResNet

    block, layers = _BLOCKS[depth]
    # Without `bias_downsample=False` and a stride of 2 these would not be torchvision's.
    model: torch.nn.Module = ResNet(
        block, layers, [64, 128, 256, 512], spatial_dims=2, n_input_channels=3, conv1_t_size=7,
        conv1_t_stride=2, shortcut_type="B", bias_downsample=False, num_classes=OUTPUTS,
    )  # fmt: skip
    return model


def _hold_averages(model: torch.nn.Module, _: object) -> None:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def freeze(model: torch.nn.Module, frozen: str) -> None:
    """Let parts of a ResNet learn no more, and all others learn.

    Parameters
    ----------
    model : Module
        Of `make_resnet`; changed in place.
    frozen : {"none", "first", "first_two", "all"}
        See `qmri_lake.diagnosis.recipes.FROZEN`.

    Raises
    ------
    NotFoundError
        Something else.
    """
    _known(frozen, tuple(FROZEN), "frozen part")
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
    """Load a state dict with torchvision's names into a ResNet, all of it or but for the head.

    Parameters
    ----------
    model : Module
        Of `make_resnet`; changed in place, and only when the file fits.
    file : path
        A state dict that ``torch.save`` wrote: torchvision's ``.pth``, or a model of ours. Nothing
        but arrays is unpickled.
    digest : str, optional
        SHA-256 of the file, in hexadecimal, or how it begins. Default: the digits that its name
        ends in, as torchvision's do; a name without them is not checked.
    head : bool
        Load the last, linear layer too. Default: it keeps what it has, since another one tells
        other things.

    Returns
    -------
    str
        SHA-256 of the file, for the model's card.

    Raises
    ------
    NotFoundError
        No such file.
    InputError
        A file that can't be read or has another digest; weights of another depth, or of no ResNet
        of these.
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
    """Return the file of torchvision's ImageNet weights, from torch's own cache or its server.

    Parameters
    ----------
    depth : {18, 34, 50}

    Returns
    -------
    Path
        In ``checkpoints`` of `torch.hub.get_dir`, where torchvision keeps it too (``TORCH_HOME``).
        It is downloaded once, and its digest is checked by `load_weights`.

    Raises
    ------
    NotFoundError
        Another depth; or the file is not there and can't be downloaded.
    """
    import torch

    _known(depth, DEPTHS, "depth")
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
            expected=f"{name} at {path}, or a way to download it",
            where="imagenet",
            todo="Copy the file there, or give it by --weights FILE; --start random does without.",
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
    """Build a ResNet and give it the weights that it starts from.

    Parameters
    ----------
    depth : {18, 34, 50}
    start : {"random", "imagenet", "oa"}
        ``imagenet``: all but the head. ``oa``: the head too, since knees that were told by their
        osteoarthritis are told further [assumption].
    weights : path, optional
        The file of weights: of the model of OA, where that is the start, or of ImageNet in place of
        torchvision's own.
    frozen : {"none", "first", "first_two", "all"}
    seed : int
        Of what is drawn at random.

    Returns
    -------
    model : Module
    digest : str
        SHA-256 of the weights, "" for a random start.

    Raises
    ------
    NotFoundError, InputError
        As `load_weights` and `imagenet_weights`.
    RunError
        Weights for a random start, or none of a model of OA.
    """
    _known(start, STARTS, "start")
    model = make_resnet(depth, seed=seed)
    freeze(model, frozen)
    if start == "random":
        if weights is not None:
            raise RunError(
                f"weights {Path(weights).name} for a random start", expected="one or the other",
                where="start", todo="Start from imagenet or oa to load them.",
            )  # fmt: skip
        return model, ""
    if weights is None and start == "oa":
        raise RunError(
            "no weights of a model of OA", expected="those of the same strategy and bone",
            where="start", todo="Train the models of OA first: qmri-lake train oa.",
        )  # fmt: skip
    file = imagenet_weights(depth) if weights is None else weights
    return model, load_weights(model, file, head=start == "oa")


def digest_of(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal.

    Raises
    ------
    NotFoundError
        No such file.
    InputError
        One that can't be read.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise NotFoundError(
            "no such file", expected="a state dict of a ResNet, .pth", where=str(path)
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


def _checked_digest(path: Path, digest: str | None) -> str:
    found = digest_of(path)
    digits = _DIGITS.search(path.name)
    expected = digest if digest is not None else digits[1] if digits else ""
    if not found.startswith(expected.lower()):
        raise InputError(
            f"SHA-256 {found[: max(8, len(expected))]}",
            expected=expected,
            where=str(path),
            todo="The file is damaged, or another one: copy it again.",
            reason=Reason.MODEL_MISMATCH,
        )
    return found


def _check_fit(state: Mapping[str, Any], own: Mapping[str, Any], path: Path, *, head: bool) -> None:
    expected = {n: tuple(v.shape) for n, v in own.items() if head or not n.startswith(HEAD)}
    found = {name: tuple(value.shape) for name, value in state.items()}
    # Files of before PyTorch 0.4.1, torchvision's first among them, do not count batches.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    if {**dict.fromkeys(counters, ()), **found} == expected:
        return
    depth, other = _depth_of(expected), _depth_of(found)
    if other is not None and other != depth:
        what, todo = f"weights of a ResNet {other}", "Choose the file, or the depth, that fits."
    else:
        wrong = [f"no {name}" for name in sorted(set(expected) - set(found) - counters)]
        wrong += [f"an unknown {name}" for name in sorted(set(found) - set(expected))]
        wrong += [
            f"{name} of {found[name]}, not {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
        what = f"weights with {wrong[0]}" + (f", and {len(wrong) - 1} more" if wrong[1:] else "")
        todo = "Give a state dict with torchvision's names, as model.state_dict() has them."
    raise InputError(
        what, expected=f"those of a ResNet {depth}", where=str(path), todo=todo,
        reason=Reason.MODEL_MISMATCH,
    )  # fmt: skip


def _depth_of(shapes: Mapping[str, Any]) -> int | None:
    """Count the layers as ResNets are named: those of all blocks, the first and the linear one."""
    blocks = len({name for name in shapes if _FIRST_OF_BLOCK.fullmatch(name)})
    each = 3 if "layer1.0.conv3.weight" in shapes else 2
    return blocks * each + 2 if blocks else None


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"weights that can't be read ({why})",
        expected="a state dict that torch.save wrote",
        where=str(path),
        todo="Copy the file again.",
        reason=Reason.UNREADABLE_FILE,
    )


def _known(value: object, known: tuple[object, ...], what: str) -> None:
    if value not in known:
        names = [str(name) for name in known]
        raise NotFoundError(
            f"no {what} {value!r}", expected=f"one of {', '.join(names)}", where="resnet",
            todo=did_you_mean(str(value), names),
        )  # fmt: skip
