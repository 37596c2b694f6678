"""The order in which a run sees its images: a pure function of seed and step.

It is the endless concatenation of `permutation(order_seed, epoch)` for epoch 0, 1, 2, ...; the batch at step s covers
its places `s B .. (s + 1) B - 1`. So no image is ever dropped at the end of an epoch, and a training set smaller than a
batch simply wraps.
"""

from functools import lru_cache, partial

import numpy as np

from datamodules.images import Int64Array
from datamodules.info import DataError

_ORDER_KEY = 0x6F72646572


class StepOrder:
    """Which of N images are in the batch at a step.

    Args:
        num_examples: Images of the run (N).
        batch_size: Images per step (B).
        seed: Draws the order.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self.num_examples, self.batch_size = num_examples, batch_size
        self._epoch_order = lru_cache(maxsize=4)(partial(_draw_epoch_order, num_examples, seed))

    def places_at(self, step: int) -> Int64Array:
        """Places among the N images, int64 `[B]`.

        Raises:
            DataError: The step is negative.
        """
        if step < 0:
            raise DataError(f"step {step} must not be negative")
        return self.places_between(step, step + 1).reshape(-1)

    def places_between(self, start: int, stop: int) -> Int64Array:
        """Places of the batches at steps `start .. stop - 1`, int64 `[stop - start, B]`."""
        begin, end = start * self.batch_size, stop * self.batch_size
        first, last = begin // self.num_examples, (end - 1) // self.num_examples
        orders = [self._epoch_order(epoch) for epoch in range(first, last + 1)]
        stream = orders[0] if len(orders) == 1 else np.concatenate(orders)
        offset = first * self.num_examples
        places: Int64Array = stream[begin - offset : end - offset].reshape(-1, self.batch_size)
        return places


def _draw_epoch_order(num_examples: int, seed: int, epoch: int) -> Int64Array:
    generator = np.random.Generator(np.random.Philox(key=[seed, _ORDER_KEY], counter=[0, 0, epoch, 0]))
    return generator.permutation(num_examples)
