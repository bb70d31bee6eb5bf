"""ResNets: torchvision's names, weights out of files, and what does not learn."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.resnet import compare
from qmri_lake.diagnosis.models import resnet
from qmri_lake.diagnosis.models.recipes import DEPTHS, FROZEN
from qmri_lake.diagnosis.models.resnet import freeze, load_weights, make_resnet, start_resnet
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError

torch.set_num_threads(1)  # the machine may be busy: threads that wait for each other cost more

Shapes = dict[str, tuple[int, ...]]

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def norm(name: str, channels: int) -> Shapes:
    of_channels = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{n}": (channels,) for n in of_channels} | {f"{name}.num_batches_tracked": ()}


def torchvision_shapes(depth: int, outputs: int = 2) -> Shapes:
    """Names and shapes as torchvision documents its ResNets, after He 2015."""
    widen = 4 if depth == 50 else 1
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    into = 64
    for layer, blocks in enumerate(LAYERS[depth]):
        width = 64 * 2**layer
        for block in range(blocks):
            at = f"layer{layer + 1}.{block}"
            convs = [(into, width, 3), (width, width, 3)]
            if depth == 50:
                convs = [(into, width, 1), (width, width, 3), (width, 4 * width, 1)]
            for n, (i, o, size) in enumerate(convs, 1):
                shapes |= {f"{at}.conv{n}.weight": (o, i, size, size), **norm(f"{at}.bn{n}", o)}
            if block == 0 and (layer or depth == 50):
                shapes[f"{at}.downsample.0.weight"] = (widen * width, into, 1, 1)
                shapes |= norm(f"{at}.downsample.1", widen * width)
            into = widen * width
    return shapes | {"fc.weight": (outputs, into), "fc.bias": (outputs,)}


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def file_of(folder: Path, depth: int, name: str = "weights.pth", outputs: int = 1000) -> Path:
    """A file as torchvision's: its names and shapes, and a head for a thousand classes."""
    draw = torch.Generator().manual_seed(depth)
    state = {
        name: torch.rand(shape, generator=draw) if shape else torch.tensor(7)
        for name, shape in torchvision_shapes(depth, outputs).items()
    }
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize("depth", DEPTHS)
def test_make_resnet__names_and_shapes_are_torchvisions(depth: int) -> None:
    assert shapes_of(make_resnet(depth)) == torchvision_shapes(depth)


def test_make_resnet__strides_are_torchvisions() -> None:
    model = make_resnet(50)
    sizes = {}
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *at, name=name: sizes.update({name: at[2].shape[-1]}))
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
    assert list(sizes.values()) == [32, 16, 16, 8, 4, 2]


def test_make_resnet__a_seed_gives_the_same_weights_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (make_resnet(18, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_load_weights__all_but_the_head(tmp_path: Path) -> None:
    model = make_resnet(18)
    head = model.fc.weight.clone()
    file = file_of(tmp_path, 18)
    assert load_weights(model, file) == hashlib.sha256(file.read_bytes()).hexdigest()
    saved, loaded = torch.load(file), model.state_dict()
    assert all(torch.equal(loaded[n], v) for n, v in saved.items() if not n.startswith("fc."))
    assert torch.equal(model.fc.weight, head)


def test_load_weights__of_torchvisions_first_files_that_count_no_batches(tmp_path: Path) -> None:
    state = torch.load(file_of(tmp_path, 18))
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = make_resnet(18)
    load_weights(model, tmp_path / "old.pth")
    assert torch.equal(model.bn1.running_var, state["bn1.running_var"])


@pytest.mark.parametrize(("depth", "of_file"), [(18, 34), (34, 50), (50, 34)])
def test_load_weights__of_another_depth_names_both(tmp_path, depth: int, of_file: int) -> None:
    model = make_resnet(depth)
    before = model.conv1.weight.clone()
    file = file_of(tmp_path, of_file)
    with pytest.raises(
        InputError, match=rf"ResNet {of_file} \(expected .* ResNet {depth}"
    ) as raised:
        load_weights(model, file)
    assert raised.value.reason is Reason.MODEL_MISMATCH
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert torch.equal(model.conv1.weight, before)


def test_load_weights__that_do_not_fit_say_where(tmp_path: Path) -> None:
    state = torch.load(file_of(tmp_path, 18))
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    with pytest.raises(InputError, match=r"conv1.weight of \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"):
        load_weights(make_resnet(18), tmp_path / "grey.pth")
    with pytest.raises(InputError, match=r"fc.weight of \(1000, 512\).*and 1 more"):
        load_weights(make_resnet(18), tmp_path / "weights.pth", head=True)
    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    with pytest.raises(InputError, match="not a state dict"):
        load_weights(make_resnet(18), tmp_path / "nested.pth")
    torch.save({f"module.{n}": v for n, v in state.items()}, tmp_path / "parallel.pth")
    with pytest.raises(InputError, match=r"no bn1.bias, and \d+ more"):
        load_weights(make_resnet(18), tmp_path / "parallel.pth")


def test_load_weights__checks_the_digits_of_the_name_and_those_given(tmp_path: Path) -> None:
    file = file_of(tmp_path, 18)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    right, wrong = (tmp_path / f"resnet18-{digits}.pth" for digits in (digest[:8], "f37072fd"))
    for named in (right, wrong):
        named.hardlink_to(file)
    assert load_weights(make_resnet(18), right) == digest
    with pytest.raises(InputError, match=rf"SHA-256 {digest[:8]} \(expected f37072fd"):
        load_weights(make_resnet(18), wrong)
    with pytest.raises(InputError, match=rf"SHA-256 {digest} \(expected {'0' * 64}"):
        load_weights(make_resnet(18), file, digest="0" * 64)


def test_load_weights__no_file_and_no_weights(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        load_weights(make_resnet(18), tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("Not found")
    (tmp_path / "empty.pth").touch()
    whole = file_of(tmp_path, 18).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pth", "empty.pth", "half.pth"):
        with pytest.raises(InputError, match="can't be read") as raised:
            load_weights(make_resnet(18), tmp_path / name)
        assert raised.value.reason is Reason.UNREADABLE_FILE
        assert "\n" not in str(raised.value)


def test_load_weights__unpickles_nothing_but_arrays(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path("own class")}, tmp_path / "code.pth")
    with pytest.raises(InputError, match="can't be read"):
        load_weights(make_resnet(18), tmp_path / "code.pth")


def test_start_resnet__imagenet_out_of_torchs_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    digest = hashlib.sha256(file_of(cache, 18).read_bytes()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    (cache / "weights.pth").rename(cache / name)
    monkeypatch.setattr(resnet, "IMAGENET", {18: name})
    model, found = start_resnet(18, "imagenet", frozen="first")
    assert found == digest
    assert torch.equal(model.conv1.weight, torch.load(cache / name)["conv1.weight"])
    assert not model.conv1.weight.requires_grad


def test_start_resnet__imagenet_offline_raises_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(resnet, "_PUBLIC", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(NotFoundError, match=r"no ImageNet weights of ResNet 50 .*--weights") as got:
        start_resnet(50, "imagenet")
    assert "resnet50-0676ba61.pth" in str(got.value)
    assert "\n" not in str(got.value)
    assert not list(tmp_path.rglob("*.pth*"))


def test_start_resnet__random_and_oa_check_their_weights(tmp_path: Path) -> None:
    assert start_resnet(18, "random")[1] == ""
    with pytest.raises(RunError, match=r"weights any.pth with start='random'"):
        start_resnet(18, "random", weights="any.pth")
    with pytest.raises(RunError, match="no weights of a model of OA"):
        start_resnet(18, "oa")
    with pytest.raises(NotFoundError, match=r"no start 'imagnet'.*imagenet"):
        start_resnet(18, "imagnet")
    with pytest.raises(NotFoundError, match="no depth 101"):
        start_resnet(101, "random")
    torch.save(make_resnet(18, seed=4).state_dict(), tmp_path / "oa.pth")
    model, _ = start_resnet(18, "oa", weights=tmp_path / "oa.pth")
    assert torch.equal(model.fc.weight, make_resnet(18, seed=4).fc.weight)


@pytest.mark.parametrize("frozen", FROZEN)
def test_freeze__only_the_other_parts_are_trained(frozen: str) -> None:
    model = make_resnet(18)
    freeze(model, "all")
    freeze(model, frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.train()
    torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 0, 1])).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    stayed = {n.split(".")[0] for n, v in model.state_dict().items() if torch.equal(v, before[n])}
    moved = {
        n.split(".")[0] for n, v in model.state_dict().items() if not torch.equal(v, before[n])
    }
    assert stayed & moved == set()
    assert stayed == set(FROZEN[frozen])  # averages of batch norm among them


def test_import__is_light() -> None:
    code = "import sys, qmri_lake.diagnosis.models.resnet, qmri_lake.diagnosis.models.recipes; "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.accept
def test_outputs__equal_torchvisions(judge) -> None:
    python = os.environ.get("QMRI_LAKE_TORCHVISION")
    if python is None:
        pytest.skip("QMRI_LAKE_TORCHVISION names no interpreter that has torchvision")
    version, far = compare(python)
    judge(
        "ResNet / outputs against torchvision, same weights",
        required="within 1e-6",
        measured=", ".join(f"ResNet {d}: {far[d]:.1e}" for d in far) + f" (torchvision {version})",
        passed=max(far.values()) <= 1e-6,
    )
