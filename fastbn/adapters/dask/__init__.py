"""Batch norm of Dask arrays: statistics, outputs and gradients of arrays that no memory holds.

Nothing is computed until Dask is asked to. Every chunk is a task, with one thread unless a number
was set.
"""

try:
    import dask as _dask

    _planned = _dask.config.get("array.query-planning", None)  # off, unless asked for
    if not _planned:
        import dask.array as _array  # noqa: F401
except ImportError as error:
    raise ImportError("fastbn.adapters.dask needs Dask: pip install 'fastbn[dask]'") from error
if _planned:
    raise ImportError(
        "fastbn.adapters.dask needs Dask's configuration array.query-planning to be off"
    )

from ._functions import batch_norm, batch_norm_backward, batch_stats
from ._population import population_stats

__all__ = ["batch_norm", "batch_norm_backward", "batch_stats", "population_stats"]
