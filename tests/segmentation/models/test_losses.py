"""Losses of the bone networks, compared with values by hand, on both backends of Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.models.backend import keras
from qmri_lake.segmentation.models.losses import LOSSES, class_weights, loss

# Two voxels, two classes: softmax (3/4, 1/4) and (1/3, 2/3), labels 0 and 1, D = 1 + phi.
LOGITS = np.log(np.array([[[3.0, 1.0], [1.0, 2.0]]]))
TARGET = np.array([[[0, 1.0, 0.5], [1, 0.0, 1.0]]])
WEIGHTS = (0.5, 1.5)

BY_HAND = {
    # Class 0: 2 x 2 x 3/4 / (2 + 2 x 3/4 + 1 x 1/3) = 3 / 3.83333 = 0.782609.
    # Class 1: 2 x 2 x 2/3 / (2 + 1.5 x 1/4 + 2 x 2/3) = 2.66667 / 3.70833 = 0.719101.
    # (0.5 x 0.782609 + 1.5 x 0.719101) / 2 = 0.734978.
    "dice": 0.307915,
    # 0.5 x 2 x 0.287682 + 1.5 x 2 x 0.405465 = 1.504077, by 0.5 + 1.5.
    "cross_entropy": 0.752039,
    "combined": 0.383119,
    # Entropies 0.562335 and 0.636514: 1 x (0.287682 - 0.0562335) + 3 x (0.405465 - 0.0636514).
    "confidence_penalty": 0.628445,
    # (0.782609 + 0.719101) / 2 = 0.750855.
    "plain_dice": 0.286543,
}


def value(name: str, target: Any, logits: Any, weights: Any = None, **options: Any) -> float:
    ops = keras().ops
    tensors = (ops.convert_to_tensor(np.asarray(a, np.float32)) for a in (target, logits))
    return float(loss(name, weights, **options)(*tensors))


def gradient(name: str, target: Any, logits: Any, weights: Any = None) -> tuple[float, Any]:
    keras()
    import tensorflow as tf

    variable = tf.Variable(np.asarray(logits, np.float32))
    with tf.GradientTape() as tape:
        found = loss(name, weights)(tf.constant(np.asarray(target, np.float32)), variable)
    return float(found), tape.gradient(found, variable).numpy()


def random_batch(classes: int = 4, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """A batch of two volumes whose last class is not labelled."""
    rng = np.random.default_rng(0)
    shape = (2, 3, 4, 5)
    labels = rng.integers(0, classes - 1, (*shape, 1))
    phi = rng.random((*shape, classes))
    return np.concatenate([labels, phi], axis=-1), scale * rng.standard_normal((*shape, classes))


@pytest.mark.parametrize("name", LOSSES)
def test_loss__by_hand(name: str) -> None:
    assert value(name, TARGET, LOGITS, WEIGHTS) == pytest.approx(BY_HAND[name], abs=2e-6)


def test_loss__only_ratios_of_weights_matter() -> None:
    for name in LOSSES:
        scaled = value(name, TARGET, LOGITS, [10 * w for w in WEIGHTS])
        assert scaled == pytest.approx(BY_HAND[name], abs=2e-6)


def test_loss__default_class_weights_are_equal() -> None:
    assert value("dice", TARGET, LOGITS) == pytest.approx(BY_HAND["plain_dice"], abs=2e-6)
    even = value("cross_entropy", TARGET, LOGITS)
    assert even == pytest.approx((2 * 0.287682 + 2 * 0.405465) / 2, abs=2e-6)


def test_loss__weighs_errors_at_a_boundary_more() -> None:
    logits = np.zeros((1, 2, 2))
    logits[0, 0] = 0, 3  # wrong
    logits[0, 1] = 3, 0  # right
    near = [[[0, 1, 1], [0, 0, 0]]]
    far = [[[0, 0, 0], [0, 1, 1]]]
    for name in LOSSES:
        assert value(name, near, logits) > value(name, far, logits) + 0.1


def test_loss__perfect_prediction() -> None:
    target, _ = random_batch()
    logits = 50.0 * (target[..., :1] == np.arange(4))
    for name in LOSSES:
        assert value(name, target, logits) == pytest.approx(0, abs=1e-5)


def test_confidence_penalty__penalises_overconfidence() -> None:
    """Pereyra: the entropy is subtracted, so its effect is largest for a uniform prediction."""
    uniform = np.zeros_like(LOGITS)
    without = value("cross_entropy", TARGET, uniform, WEIGHTS)
    assert value("confidence_penalty", TARGET, uniform, WEIGHTS) == pytest.approx(0.9 * without)
    twice = value("confidence_penalty", TARGET, uniform, WEIGHTS, beta=0.2)
    assert twice == pytest.approx(0.8 * without)
    sure = np.array([[[30.0, 0.0], [0.0, 30.0]]])
    assert value("confidence_penalty", TARGET, sure, WEIGHTS) == pytest.approx(0, abs=1e-6)
    # The best prediction is no longer the surest one.
    _, pull = gradient("confidence_penalty", TARGET, 0.5 * sure, WEIGHTS)
    _, push = gradient("cross_entropy", TARGET, 0.5 * sure, WEIGHTS)
    assert pull[0, 0, 0] > 0 > push[0, 0, 0]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_loss__finite_gradient(name: str, scale: float) -> None:
    target, logits = random_batch()
    logits = scale * np.sign(logits) if scale > 1 else logits
    found, slope = gradient(name, target, logits, [0.1, 1, 2, 0.9])
    assert np.isfinite(found)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_loss__is_finite_for_a_confident_wrong_prediction(name: str) -> None:
    target, _ = random_batch()
    wrong = np.where(target[..., :1] == np.arange(4), -100.0, 100.0)
    found, slope = gradient(name, target, wrong)
    assert np.isfinite(found)
    assert found > 10
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", LOSSES)
def test_loss__gradient_is_the_slope(name: str) -> None:
    _, slope = gradient(name, TARGET, LOGITS, WEIGHTS)
    for index in np.ndindex(LOGITS.shape):
        step = np.zeros_like(LOGITS)
        step[index] = 1e-2
        ahead, behind = (value(name, TARGET, LOGITS + s, WEIGHTS) for s in (step, -step))
        assert slope[index] == pytest.approx((ahead - behind) / 2e-2, abs=1e-4)


def test_dice__absent_class_does_not_change_the_loss() -> None:
    """A third class that is not labelled and hardly predicted changes nothing."""
    target = np.concatenate([TARGET, np.full((1, 2, 1), 0.7)], axis=-1)
    for absent in (-30.0, -100.0, -1e4):
        logits = np.concatenate([LOGITS, np.full((1, 2, 1), absent)], axis=-1)
        for name in LOSSES:
            found, slope = gradient(name, target, logits, [*WEIGHTS, 5.0])
            assert found == pytest.approx(BY_HAND[name], abs=2e-6)
            assert np.isfinite(slope).all()


def test_dice__predicting_an_absent_class_is_penalised() -> None:
    target = np.concatenate([TARGET, np.zeros((1, 2, 1))], axis=-1)
    logits = np.concatenate([LOGITS, np.full((1, 2, 1), 2.0)], axis=-1)
    for name in ("dice", "plain_dice"):
        found, slope = gradient(name, target, logits)
        assert found > 1.5 * BY_HAND[name]
        assert (slope[..., 2] > 0).all()


def test_dice__sums_over_the_batch() -> None:
    """Two exams of one voxel are one exam of two voxels."""
    for name in LOSSES:
        apart = value(name, TARGET.reshape(2, 1, 3), LOGITS.reshape(2, 1, 2), WEIGHTS)
        assert apart == pytest.approx(BY_HAND[name], abs=2e-6)


def test_loss__channels_first() -> None:
    target, logits = random_batch()
    for name in LOSSES:
        last = value(name, target, logits, [1, 2, 3, 4])
        moved = (np.moveaxis(a, -1, 1) for a in (target, logits))
        assert value(name, *moved, [1, 2, 3, 4], axis=1) == pytest.approx(last, rel=1e-6)


def test_loss__half_precision_logits_are_summed_in_float32() -> None:
    """A million equal voxels: bfloat16 cannot count beyond 256, a sequential float32 sum drifts."""
    ops = keras().ops
    shape = (1, 64, 128, 128)
    logits = ops.cast(np.broadcast_to(np.float32([1, 0]), (*shape, 2)), "bfloat16")
    target = ops.cast(np.zeros((*shape, 3), np.float32), "bfloat16")
    # Softmax 0.731059: -log of it, and of 2 x 0.731059 / 1.731059.
    for name, expected in (("cross_entropy", 0.313262), ("dice", 0.168848)):
        found = loss(name)(target, logits)
        assert keras().backend.standardize_dtype(found.dtype) == "float32"
        assert float(found) == pytest.approx(expected, abs=2e-6)


def test_loss__inside_keras_compile() -> None:
    """The loss decreases in a training by Keras."""
    k = keras()
    k.utils.set_random_seed(0)
    model = k.Sequential([k.layers.Input((4, 4, 1)), k.layers.Conv2D(2, 1)])
    image = np.random.default_rng(0).standard_normal((8, 4, 4, 1)).astype(np.float32)
    target = np.concatenate([image > 0, np.zeros((8, 4, 4, 2))], axis=-1).astype(np.float32)
    model.compile(optimizer=k.optimizers.Adam(0.1), loss=loss("combined", [0.5, 1.5]))
    history = model.fit(image, target, epochs=20, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


@pytest.mark.accept
def test_loss__torch_agrees(tmp_path: Any) -> None:
    target, logits = random_batch()
    weights = [0.2, 1.0, 2.0, 0.8]
    np.savez(tmp_path / "batch.npz", target=target, logits=logits)
    program = f"""
import json
import numpy as np
import torch
from qmri_lake.segmentation.models.losses import LOSSES, loss

batch = np.load({str(tmp_path / "batch.npz")!r})
target, logits = (torch.tensor(np.moveaxis(batch[n], -1, 1).astype(np.float32))
                  for n in ("target", "logits"))
found = {{}}
for name in LOSSES:
    leaf = logits.clone().requires_grad_()
    value = loss(name, {weights}, axis=1)(target, leaf)
    value.backward()
    found[name] = value.item(), leaf.grad.double().square().sum().item()
    half = loss(name, {weights}, axis=1)(target, logits.bfloat16())
    assert half.dtype == torch.float32 and abs(half.item() - value.item()) < 0.02
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in LOSSES:
        here, slope = gradient(name, target, logits, weights)
        assert found[name] == pytest.approx([here, np.square(slope).sum()], rel=1e-4)


def test_class_weights__inverse_frequency_with_mean_1() -> None:
    found = class_weights([8_000_000, 1_000_000, 500_000])
    np.testing.assert_allclose(found * [16, 2, 1], found[2])
    assert found.mean() == pytest.approx(1)


def test_class_weights__class_without_voxels() -> None:
    with pytest.raises(InputError, match=r"0 voxels of class 2 \(expected at least one") as caught:
        class_weights([100, 5, 0, 3])
    assert caught.value.reason is Reason.EMPTY_MASK
    with pytest.raises(InputError, match="no classes"):
        class_weights([])


def test_loss__unknown_name() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'plain_dice'"):
        loss("plaindice")


@pytest.mark.parametrize("weights", [(1, 0), (1, np.nan), (1, -1), 3])
def test_loss__bad_weights(weights: Any) -> None:
    with pytest.raises(InputError, match="expected one weight per class, above 0"):
        loss("dice", weights)


def test_loss__channels_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="target of 2 channels for logits of 2") as caught:
        value("dice", TARGET[..., :2], LOGITS)
    assert caught.value.reason is Reason.MODEL_MISMATCH
    with pytest.raises(InputError, match="3 class weights for 2 classes"):
        value("dice", TARGET, LOGITS, (1, 1, 1))
    with pytest.raises(InputError, match="beta -1"):
        loss("confidence_penalty", beta=-1)
