"""The shapes that several files go through: (shape, channel axis, memory), by name."""

from typing import NamedTuple


class Case(NamedTuple):
    """An array: its shape, the axis of its channels, and how it lies in memory (`data.LAYOUTS`)."""

    shape: tuple[int, ...]
    axis: int = 1
    memory: str = "contiguous"


# One for each way through memory, small enough for Python without a compiler.
TINY = {
    "short runs": Case((5, 3, 4)),
    "matrix": Case((9, 6)),
    "channels last": Case((3, 4, 5), -1),
    "long runs": Case((2, 3, 150)),
    "long runs of few samples": Case((2, 2, 3, 11)),
    "one channel": Case((70, 1)),
    "many columns": Case((8, 300)),
    "5-D": Case((2, 3, 2, 3, 2), 2),
}

# Few channels of some thousand values, for exact arithmetic.
EXACT = {
    "long rows": Case((2, 3, 2500)),
    "rows": Case((20, 3, 17, 17)),
    "short rows": Case((100, 3, 7, 7)),
    "NHWC": Case((10, 22, 22, 3), -1),
    "NCHW view of NHWC": Case((10, 3, 22, 22), 1, "channels_last"),
    "N D": Case((5000, 3)),
    "N D wide": Case((64, 70)),
}

# For a team of threads, but for the last; it is called for from 65,536 values on.
TEAM = {
    "NCHW": Case((16, 24, 28, 28)),
    "NCHW, 3 channels": Case((8, 3, 120, 121)),
    "NCHW, short rows": Case((32, 100, 7, 7)),
    "NCHW, rows of 14 x 14": Case((16, 40, 14, 14)),
    "one channel, one row": Case((1, 1, 300_001)),
    "NHWC": Case((16, 28, 28, 24), -1),
    "NHWC as a view": Case((16, 24, 28, 28), 1, "channels_last"),
    "N D": Case((5003, 64)),
    "N D, few rows": Case((40, 5001)),
    "N D, one column": Case((200_003, 1)),
    "strided": Case((16, 24, 28, 28), 1, "strided"),
    "5-D": Case((3, 11, 16, 17, 18)),
    "just below": Case((16, 64, 8, 8)),
    "just above": Case((16, 65, 8, 8)),
    "N D, just below": Case((1024, 64)),
    "N D, just above": Case((1025, 64)),
    "small": Case((4, 3, 5, 6)),
}

# (N, C, ...) whose ends lie on no boundary of a vector: for stores of every kind and alignment.
STORED = {
    "long rows": (3, 2, 40_001),
    "long rows, few": (3, 2, 11_003),
    "rows": (5, 7, 26, 27),
    "rows of 2 KB": (40, 5, 512),
    "rows of a vector": (30, 5, 16),
    "rows of a vector and a rest": (37, 3, 21),
    "rows of some vectors": (9, 2, 70),
    "short rows": (50, 31, 7, 7),
    "short rows, many": (1400, 3, 17),
    "columns": (1001, 65),
    "columns, fewer rows": (301, 65),
    "columns, no multiple": (1201, 61),
    "columns of few rows": (11, 300),
    "one column": (70_001, 1),
    "three columns": (30_001, 3),
    "three columns, small": (1001, 3),
    "tiny": (3, 2, 5),
}

# For kernels without a compiler: all ways through them in few values. The wide ones take tiles.
NARROW = (
    *((3, 2, 40), (9, 2, 17), (2, 3, 130), (2, 1100), (1, 2, 1100), (17, 3, 33), (8, 2, 49)),
    *((20, 3), (3, 5, 4), (70, 2, 2), (1, 1, 7), (33, 16), (41, 70), (9, 2, 3), (40, 67)),
    *((1, 1, 2300), (4, 2, 2100)),
)
WIDE = (9, 4100), (2, 1400, 3)
