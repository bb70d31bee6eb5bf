"""Load batches of images and labels for PyTorch, in a seeded random order."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import QmriLakeError, RunError

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

__all__ = [
    "CLASSES",
    "Batch",
    "ImageSet",
    "SeededOrder",
    "class_weights",
    "make_loader",
    "on_device",
]

CLASSES = (0, 1)
"""Labels of an image: 0 if the finding is absent, 1 if it is present."""


_STARTS = ("forkserver", "spawn")


class Batch(NamedTuple):
    """Images, their labels, and their positions in the dataset."""

    image: torch.Tensor
    """(n, channel, azimuth, polar) float32, as returned by `qmri_lake.fusion.merge`."""
    label: torch.Tensor | None
    """(n,) int64: 0 absent, 1 present; None without labels."""
    position: torch.Tensor
    """(n,) int64: positions in the dataset's `exams`."""


class ImageSet(Protocol):
    """Dataset of images of one bone and one strategy, such as `SphereImages`."""

    strategy: str
    """One of `qmri_lake.fusion.STRATEGIES`."""
    bone: str
    size: int
    """Number of pixels along azimuth and polar angle."""
    exams: tuple[str, ...]
    """Exam key of each image."""
    label: NDArray[np.int64] | None
    """(image,): 0 absent, 1 present; None without labels."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return images as one batch, already collated."""


def class_weights(images: ImageSet) -> torch.Tensor:
    """Return the weight of each class in a loss that compensates for class imbalance.

    Parameters
    ----------
    images : ImageSet
        The training set, with labels.

    Returns
    -------
    (2,) float32
        Weights n / (2 n_class), so that both classes have the same total weight [paper], and the
        mean weight of an image is 1 [assumption].

    Raises
    ------
    RunError
        If the images have no labels.
    """
    import torch

    if images.label is None:
        raise RunError(
            "images without labels", expected="images with labels", where="class_weights"
        )
    counts = np.bincount(images.label, minlength=len(CLASSES))
    return torch.from_numpy((len(images) / (len(CLASSES) * counts)).astype(np.float32))


class SeededOrder:
    """Sampler with a different order in each epoch, determined by the seed.

    Parameters
    ----------
    count : int
        Number of images.
    seed : int
        Random seed.
    shuffle : bool
        Whether to shuffle the images. Default: True. If False, all epochs have the order of the
        dataset.

    Attributes
    ----------
    epoch : int
        Number of the next epoch, increased by each iteration over the sampler. It can be set to
        resume a training.
    """

    def __init__(self, count: int, seed: int, *, shuffle: bool = True) -> None:
        self.count, self.seed, self.shuffle, self.epoch = count, seed, shuffle, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if not self.shuffle:
            return iter(range(self.count))
        return iter(np.random.default_rng([self.seed, epoch]).permutation(self.count).tolist())


def make_loader(
    images: ImageSet,
    *,
    batch: int,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 0,
    start_method: str = "forkserver",
) -> DataLoader[Batch]:
    """Return a PyTorch loader of batches; each epoch contains each image once.

    Parameters
    ----------
    images : ImageSet
    batch : int
        Images per batch; the last batch of an epoch may be smaller.
    shuffle : bool
        Default: a different order in each epoch, determined by `seed`. The sampler
        ``loader.sampler`` is a `SeededOrder`.
    seed : int
        Random seed of the order.
    workers : int
        Number of processes that read images; 0: this process. Worker processes persist between
        epochs. A script that starts them needs ``if __name__ == "__main__"``.
    start_method : {"forkserver", "spawn"}
        Start method of the workers. "fork" would deadlock, since the child would inherit an open
        store without its threads.

    Returns
    -------
    DataLoader
        Yields `Batch`, in pinned memory if there is a GPU.

    Raises
    ------
    RunError
        If the start method is neither "forkserver" nor "spawn".
    """
    import torch

    if start_method not in _STARTS:
        raise RunError(
            f"start method {start_method!r}",
            expected=" or ".join(_STARTS),
            where="make_loader",
            todo="A forked worker would deadlock." if start_method == "fork" else "",
        )
    worker_options: dict[str, Any] = {}
    if workers:
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            # Imported once by the server instead of by each worker. Icechunk and modules that
            # import it must not be listed: Icechunk 2 starts threads on import, and a forked worker
            # would wait for these threads forever.
            context.set_forkserver_preload(["torch", "pandas", "xarray", "zarr", "dask.array"])
        worker_options = {"persistent_workers": True, "multiprocessing_context": context}
    return _loader_class()(
        _ReturningErrors(images),  # type: ignore[arg-type]
        batch_size=batch,
        sampler=SeededOrder(len(images), seed, shuffle=shuffle),
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # not the global generator
        **worker_options,
    )


def on_device(batches: DataLoader[Batch], device: str | torch.device) -> Iterator[Batch]:
    """Yield batches on a device. For a GPU, the next batch is copied during the computation.

    Parameters
    ----------
    batches : DataLoader
        From `make_loader`, whose pinned memory is required for concurrent copies.
    device : str or device

    Yields
    ------
    Batch
    """
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        for batch in batches:
            yield _to(batch, device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    current: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            following = _to(batch, device, non_blocking=True)
        if current is not None:
            yield current
        torch.cuda.current_stream(device).wait_stream(stream)
        for part in following:
            if part is not None:  # or its memory might be reused before the model has read it
                part.record_stream(torch.cuda.current_stream(device))
        current = following
    if current is not None:
        yield current


class _ReturningErrors:
    """Images that return errors instead of raising them.

    PyTorch would replace the message of an error raised in a worker by its traceback.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch | QmriLakeError:
        try:
            return self.images.__getitems__(indices)
        except QmriLakeError as error:
            return error


@functools.cache
def _loader_class() -> type[DataLoader[Batch]]:
    from torch.utils.data import DataLoader

    class Loader(DataLoader[Batch]):
        """Loader of `_ReturningErrors`, which raises returned errors unchanged."""

        def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
            for batch in super().__iter__():
                if isinstance(batch, QmriLakeError):
                    raise batch
                yield batch

    return Loader


def _identity(batch: object) -> object:
    return batch


def _to(batch: Batch, device: torch.device, *, non_blocking: bool = False) -> Batch:
    image, label, position = (
        None if part is None else part.to(device, non_blocking=non_blocking) for part in batch
    )
    return Batch(image, label, position)  # type: ignore[arg-type]
