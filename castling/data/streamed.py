"""Images decoded while a training goes on, by loader workers, in an order that can be resumed."""

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from castling.config import AugmentConfig, Preprocessing
from castling.data.batches import EVALUATION_BATCH, Batch
from castling.data.selection import Selection
from castling.data.transforms import (
    Transform,
    draws_apart,
    evaluation_pixels,
    is_squash,
    normalised,
    policy_of,
    seed_all,
    seeds_of,
    training_pixels,
)
from castling.errors import CastlingError
from castling.signals import ignore


AHEAD = 2
"""Batches that each worker decodes in advance."""


class Samples(NamedTuple):
    """What a loader worker sends: pixels and labels of a batch, and where to erase."""

    images: Tensor
    """(batch, channel, height, width), uint8."""
    labels: Tensor
    """(batch) int64, or (batch, class) bool."""
    erased: list[tuple[int, int, int, int, int, int]]
    """Index in the batch, top, left, height and width of rectangles, seed of their noise."""


class _Decoder(Dataset[Any]):
    """Decodes and transforms the images of a batch; its items are lists of (seed, number)."""

    def __init__(
        self, selection: Selection, preprocessing: Preprocessing, augment: AugmentConfig | None
    ) -> None:
        self._selection, self._labels = selection, selection.labels
        self._training: Transform | None = None
        self._evaluation: Transform | None = None  # arrays are read as they are
        self._erase, self._has_policy = 0.0, False
        self._shape = (preprocessing.channels, *preprocessing.image_size)
        if augment is not None and augment.crops_pictures:
            self._training = training_pixels(augment, preprocessing)
            self._erase = augment.filled().random_erase or 0.0
            self._has_policy = policy_of(augment) is not None
        if selection.has_pictures or not is_squash(preprocessing):
            self._evaluation = evaluation_pixels(preprocessing)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> "Samples | CastlingError":
        """Return a batch; an error of castling as a value, so that its sentence arrives whole."""
        try:
            with nullcontext() if get_worker_info() else draws_apart():
                return self._batch(keys)
        except CastlingError as error:
            return error

    def _batch(self, keys: Sequence[tuple[int, int]]) -> Samples:
        numbers = [number for _, number in keys]
        rows = [number % len(self._labels) for number in numbers]
        labels = torch.as_tensor(self._labels[rows])
        if self._training is None and self._evaluation is None:
            return Samples(torch.as_tensor(self._selection.arrays(rows)), labels, [])
        images = torch.empty((len(keys), *self._shape), dtype=torch.uint8)
        erased = []
        seeds = seeds_of(keys[0][0], numbers)  # one seed of the epoch for the whole batch
        for index, (row, sample_seed) in enumerate(zip(rows, seeds, strict=True)):
            picture = self._selection.picture(row)
            if self._training is None:
                assert self._evaluation is not None
                images[index] = self._evaluation(picture)
                continue
            seed_all(sample_seed, numpy=self._has_policy)
            images[index] = self._training(picture)
            rectangle = self._rectangle()
            if rectangle is not None:
                erased.append((index, *rectangle, sample_seed))
        return Samples(images, labels, erased)

    def _rectangle(self) -> tuple[int, int, int, int] | None:
        """Return top, left, height and width of what timm's RandomErasing would erase."""
        if random.random() >= self._erase:
            return None
        from timm.data.random_erasing import RandomErasing

        blank = torch.ones(1, *self._shape[1:])
        RandomErasing(probability=1.0, device="cpu")(blank)  # type: ignore[no-untyped-call]
        _, rows, columns = (blank == 0.0).nonzero(as_tuple=True)
        if not len(rows):
            return None
        top, left = int(rows.min()), int(columns.min())
        return top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left


class _Steps(Sampler[list[tuple[int, int]]]):
    """The steps of the epoch that is about to be read; a loader asks again for each."""

    def __init__(self) -> None:
        self.seed = 0
        self.steps: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield seed and number of the images of a step; a million at once take 120 MB."""
        seed = self.seed
        return ([(seed, number) for number in numbers.tolist()] for numbers in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _same(batch: Any) -> Any:
    return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many processes decode."""

    number: int
    """0 decodes in the process that trains."""

    @classmethod
    def of(cls, chosen: str | int, device: torch.device) -> "Workers":
        """Return the workers that `data.loader_workers` asks for.

        auto is as many as torch has threads here, a trial's CPU cores, for a training on a GPU,
        at most 8; on the CPU, which the training itself needs, half as many, none for one core.
        """
        if isinstance(chosen, int):
            return cls(number=chosen)
        cores = torch.get_num_threads()
        return cls(number=min(8, cores if device.type == "cuda" else cores // 2))


class StreamedBatches:
    """Batches of a split that is decoded anew in every epoch.

    A sample's random draws are seeded by the epoch's seed and its number in the order, so that
    batches depend neither on the workers nor on where an epoch begins. Workers are forked where
    this process holds no GPU, else they come from a fork server; they end with `close`, and
    within seconds of the end of this process, however it ends.

    Args:
        selection: the images.
        preprocessing: the evaluation transform, with mean and standard deviation.
        augment: of training batches; None, as the preset small, gives them the evaluation's.
        device: of the batches.
        workers: that decode.
    """

    def __init__(
        self,
        selection: Selection,
        preprocessing: Preprocessing,
        augment: AugmentConfig | None,
        device: torch.device,
        workers: Workers,
    ) -> None:
        self._decoder = _Decoder(selection, preprocessing, augment)
        self._size, self._device, self._workers = len(selection), device, workers
        self._mean = torch.tensor(preprocessing.mean, device=device)[:, None, None]
        self._std = torch.tensor(preprocessing.std, device=device)[:, None, None]
        self._steps = _Steps()
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        return self._size

    def shuffled(
        self, order: Tensor, sizes: Sequence[int], *, seed: int = 0, first_step: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of a training epoch from a step on; none before it is decoded."""
        return self._read(seed, order.split(list(sizes))[first_step:])

    def in_order(self, size: int = EVALUATION_BATCH) -> Iterator[Batch]:
        """Yield all images in the order of the split."""
        return self._read(0, torch.arange(self._size).split(size))

    def close(self) -> None:
        """End the loader workers; the batches can be used again, which starts new ones."""
        self._loader = None  # the loader's iterator ends its workers when nobody holds it

    def _read(self, seed: int, steps: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield the batches of some steps, each copied to the device while another is used."""
        if self._loader is None:
            self._loader = self._open()
        self._steps.seed, self._steps.steps = seed, steps
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        ready: Batch | None = None
        for samples in self._loader:
            if isinstance(samples, CastlingError):
                raise samples
            following = self._moved(samples, stream)
            if ready is not None:
                yield ready
            if stream is not None:
                torch.cuda.current_stream(self._device).wait_stream(stream)
            ready = following
        if ready is not None:
            yield ready

    def _open(self) -> "DataLoader[Any]":
        number = self._workers.number
        context = None
        if number:
            is_safe = sys.platform == "linux" and not torch.cuda.is_initialized()
            context = "fork" if is_safe else "forkserver"
        return DataLoader(
            self._decoder,
            batch_sampler=self._steps,
            collate_fn=_same,
            num_workers=number,
            multiprocessing_context=context,
            persistent_workers=number > 0,
            prefetch_factor=AHEAD if number else None,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=ignore,  # a signal to all processes: the training ends them
            generator=torch.Generator(),  # its draws stay apart from the training's
        )

    def _moved(self, samples: Samples, stream: "torch.cuda.Stream | None") -> Batch:
        """Return a batch on the device, normalised and erased there."""
        if stream is None:
            return self._finished(samples)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            return self._finished(samples)

    def _finished(self, samples: Samples) -> Batch:
        images = samples.images.to(self._device, non_blocking=True)
        labels = samples.labels.to(self._device, non_blocking=True)
        images = normalised(images, self._mean, self._std)
        if samples.erased:
            generator = torch.Generator(self._device)
            for index, top, left, height, width, seed in samples.erased:
                generator.manual_seed(seed)
                place = images[index, :, top : top + height, left : left + width]
                place.normal_(generator=generator)
        return Batch(images, labels)
