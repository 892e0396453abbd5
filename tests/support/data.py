"""Arrays to test with: values whose statistics are known, and every way they can lie in memory."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

DTYPES = [np.float32, np.float64]
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def normals(shape, dtype=np.float64, *, seed=0, offset=0.0, scale=1.0):
    """Normal deviates around `offset`."""
    return (offset + scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def problem(shape, dtype=np.float64, *, channel_axis=1, seed=0, offset=0.0):
    """x, dy, weight, bias of one call; each channel has its own mean and deviation."""
    channels = shape[channel_axis]
    per_channel = [1] * len(shape)
    per_channel[channel_axis] = channels
    spread = np.linspace(0.5, 2.0, channels).reshape(per_channel)
    centre = offset + np.linspace(-1.0, 1.0, channels).reshape(per_channel)
    x = (normals(shape, seed=seed) * spread + centre).astype(dtype)
    dy = normals(shape, dtype, seed=seed + 1)
    weight = normals(channels, dtype, seed=seed + 2, offset=1.0, scale=0.3)
    return x, dy, weight, normals(channels, dtype, seed=seed + 3)


def ladder(shape, dtype, offset, *, channel_axis=1, seed=0):
    """Standard normals around +offset and -offset in turn, channel by channel."""
    x = normals(shape, seed=seed)
    moved = np.moveaxis(x, channel_axis, 0)
    moved[0::2] += offset
    moved[1::2] -= offset
    return x.astype(dtype)


def exact(shape, dtype, *, channel_axis=1, seed=0, paired=False):
    """(x, mean, std): half of each channel is mean - std, half mean + std, in random order.

    Means are small integers and deviations powers of two, so that x, its mean, its variance and
    its output are exact, and so is every sum of them in any order. `paired` puts the two values
    side by side in memory order of the channel: each even block has the channel's mean, too.
    """
    channels = shape[channel_axis]
    mean = np.arange(channels) % 7 - 3.0
    std = 2.0 ** (np.arange(channels) % 4 - 1)
    n = int(np.prod(shape)) // channels
    rng = np.random.default_rng(seed)
    signs = np.empty((channels, n))
    for row in signs:
        if paired:
            first = rng.choice([-1.0, 1.0], n // 2)
            row[:] = np.stack([first, -first], axis=1).ravel()
        else:
            row[:] = rng.permutation(np.repeat([-1.0, 1.0], n // 2))
    moved_shape = (channels, *np.delete(shape, channel_axis))
    x = (mean[:, None] + std[:, None] * signs).reshape(moved_shape)
    x = np.moveaxis(x, 0, channel_axis).astype(dtype)
    return np.ascontiguousarray(x), mean, std


def spoil(values, how):
    """Give a channel an outlier, infinity or NaN in first place, or a constant, or scale it."""
    first = {"outlier": 1e6, "infinity": np.inf, "NaN": np.nan}
    if how in first:
        values[(0,) * values.ndim] = first[how]
    elif how == "constant":
        values[...] = 7.25
    else:
        values *= np.float32(how)


# --- memory: functions that keep the values and change how they are stored -----------------------


def _strided(x):
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7.0).astype(x.dtype)
    view = wide[..., 1::2]
    view[...] = x
    return view


def _gapped(x):
    """Contiguous rows, the first axis with a gap."""
    wide = np.full((2 * x.shape[0], *x.shape[1:]), 7.0).astype(x.dtype)
    wide[::2] = x
    return wide[::2]


def _reversed(x):
    flip = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[flip])[flip]


def _misaligned(x):
    raw = np.empty(x.nbytes + 1, np.uint8)
    view = np.ndarray(x.shape, x.dtype, raw, offset=1)
    view[...] = x
    return view


def _readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def readonly(shape, dtype=np.float64):
    """Zeros that cannot be written."""
    return _readonly(np.zeros(shape, dtype))


def channels_last(x):
    """The same array with its second axis innermost in memory (a view of channel_axis=1)."""
    if x.ndim < 2:
        return np.ascontiguousarray(x)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "channels_last": channels_last,
    "fortran": np.asfortranarray,
    "strided": _strided,
    "gapped": _gapped,
    "reversed": _reversed,
    "swapped_axes": lambda x: np.ascontiguousarray(x.swapaxes(0, -1)).swapaxes(0, -1),
    "byteswapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "misaligned": _misaligned,
    "readonly": _readonly,
}


def unaligned(x, offset):
    """Memory full of 7, and in it an array like x, `offset` values behind a multiple of 64 bytes.

    There are 16 values or more before it and behind it.
    """
    raw = np.full(x.size + 96, 7.0, x.dtype)
    start = -raw.ctypes.data % 64 // x.itemsize + 16 + offset
    return raw, raw[start : start + x.size].reshape(x.shape)


def order(x):
    """The axes of more than one entry, outermost in memory first."""
    return [a for a in np.argsort([-s for s in x.strides], kind="stable") if x.shape[a] > 1]


# --- layers ---------------------------------------------------------------------------------------

STATE_KEYS = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def snapshot(bn):
    """A copy of the state of a layer."""
    return {key: np.copy(value) for key, value in bn.state_dict().items()}


def assert_state(bn, expected):
    """The layer's state has these keys, in order, and these values, to the bit."""
    state = bn.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value)


# --- hypothesis -----------------------------------------------------------------------------------


@st.composite
def arrays(draw, min_side=1, max_side=7):
    """(x, dy, weight, bias, channel_axis): any rank 2..5, axis and layout, two values a channel."""
    shape = tuple(draw(st.lists(st.integers(min_side, max_side), min_size=2, max_size=5)))
    channel_axis = draw(st.integers(-len(shape), len(shape) - 1))
    if np.prod(shape) // max(shape[channel_axis], 1) < 2:
        grow = (channel_axis + 1) % len(shape)
        shape = (*shape[:grow], draw(st.integers(2, 80)), *shape[grow + 1 :])
    x, dy, weight, bias = problem(
        shape,
        draw(st.sampled_from(DTYPES)),
        channel_axis=channel_axis,
        seed=draw(st.integers(0, 99)),
        offset=draw(st.sampled_from([0.0, -3.0, 100.0])),
    )
    layouts = st.sampled_from(sorted(LAYOUTS))
    return LAYOUTS[draw(layouts)](x), LAYOUTS[draw(layouts)](dy), weight, bias, channel_axis
