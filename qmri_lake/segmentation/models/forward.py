"""Computation of a model's logits with TensorFlow or torch, with little memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qmri_lake.segmentation.models.backend import backend_name, keras
from qmri_lake.segmentation.models.keras_types import KerasModel, Tensor
from qmri_lake.segmentation.models.vnet import Architecture

__all__ = ["compute_logits"]

Forward: TypeAlias = Callable[[Sequence[Tensor], NDArray[np.float32]], Tensor]

_FORWARD: dict[tuple[Architecture, str], Forward] = {}
"""Functions compiled by TensorFlow, by architecture and dtype, for any weights and any size."""


def compute_logits(
    model: KerasModel, batch: NDArray[np.float32], architecture: Architecture, dtype: str
) -> NDArray[np.float32]:
    """Run a model, and free the output of each layer when no other layer needs it.

    TensorFlow's graph already does this; with torch, Keras would keep all outputs until the end.
    """
    if backend_name() == "torch":
        return _torch_logits(model, batch)
    # Not `predict_on_batch`: it would trace a function for each model and for each size.
    ops = keras().ops
    forward = _forward(architecture, dtype, model)
    weights = [ops.convert_to_tensor(variable) for variable in model.variables]
    logits: NDArray[np.float32] = ops.convert_to_numpy(forward(weights, batch))
    return logits


def _torch_logits(model: KerasModel, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    k = keras()
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


def _forward(architecture: Architecture, dtype: str, model: KerasModel) -> Forward:
    """Return the function that maps weights and a batch to logits; equal architectures share it."""
    key = (architecture, dtype)
    if key not in _FORWARD:
        import tensorflow

        tf: Any = tensorflow  # TensorFlow's type stubs export few names
        trained = len(model.trainable_variables)
        index = {id(variable): n for n, variable in enumerate(model.variables)}
        order = [*model.trainable_variables, *model.non_trainable_variables]

        def logits(weights: Sequence[Tensor], batch: Tensor) -> Tensor:
            values = [weights[index[id(variable)]] for variable in order]
            return model.stateless_call(values[:trained], values[trained:], batch)[0]

        specs = [tf.TensorSpec(v.shape, v.dtype) for v in model.variables]
        free = (None, *(None,) * architecture.rank, 1)
        traced = tf.function(logits, autograph=False, jit_compile=model.jit_compile)
        # The concrete function does not keep a reference to the model.
        _FORWARD[key] = traced.get_concrete_function(specs, tf.TensorSpec(free, tf.float32))
    return _FORWARD[key]
