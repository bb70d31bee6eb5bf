"""Types of the Keras objects that this package uses; Keras provides no type information."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["KerasModel", "KerasOptimizer", "KerasVariable", "Tensor"]

Tensor: TypeAlias = Any
"""A tensor of the backend, TensorFlow or torch, or an array that Keras converts to one."""


class KerasVariable(Protocol):
    """A variable of a layer, a model or an optimiser."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the variable."""

    @property
    def dtype(self) -> str:
        """Name of the dtype."""

    def assign(self, value: Tensor) -> object:
        """Set the value of the variable."""


class KerasOptimizer(Protocol):
    """The optimiser of a compiled model."""

    learning_rate: Any
    """Variable with the learning rate; assigning a number sets its value."""

    @property
    def variables(self) -> Sequence[KerasVariable]:
        """State of the optimiser."""

    def build(self, variables: Sequence[KerasVariable]) -> None:
        """Create the state for the trainable variables of a model."""


class KerasModel(Protocol):
    """A functional Keras model."""

    optimizer: KerasOptimizer
    jit_compile: bool | str

    @property
    def layers(self) -> Sequence[Any]:
        """Layers in the order of computation."""

    @property
    def inputs(self) -> Sequence[Tensor]:
        """Symbolic inputs."""

    @property
    def outputs(self) -> Sequence[Tensor]:
        """Symbolic outputs."""

    @property
    def variables(self) -> Sequence[KerasVariable]:
        """All variables."""

    @property
    def trainable_variables(self) -> Sequence[KerasVariable]:
        """Variables that the optimiser changes."""

    @property
    def non_trainable_variables(self) -> Sequence[KerasVariable]:
        """All other variables, such as the random state of dropout."""

    def compile(self, *, optimizer: object, loss: object, jit_compile: bool) -> None:
        """Set optimiser and loss."""

    def train_on_batch(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        """Update the weights with one batch; return its loss."""

    def test_on_batch(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        """Return the loss of one batch."""

    def get_layer(self, name: str) -> Any:
        """Return the layer of this name."""

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read the weights from a file."""

    def save_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Write the weights to a file, whose name ends in ``.weights.h5``."""

    def stateless_call(
        self, trainable: Sequence[Tensor], non_trainable: Sequence[Tensor], inputs: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Compute the outputs with the given values of the variables."""
