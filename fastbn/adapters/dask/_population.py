"""Statistics of batches that Dask makes."""

from collections.abc import Iterable
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed

import fastbn

from . import _arguments as arguments
from . import _tasks as tasks
from ._functions import SPLIT, batch_stats, statistics


def population_stats(batches, *, channel_axis=1) -> Delayed:
    raise NotImplementedError
