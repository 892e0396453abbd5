"""What compositions cost, held against the fused call or the calls that they stand for.

    python -m benchmarks.algebra [--seconds S]

Ratios of minima of calls that take turns, in float32: the two halves of a backward pass to the
whole of it, second derivatives to a backward pass, ghost batch norm to one call a group and to one
call, renormalization to batch norm, and the inverse to `normalize`.
"""

import argparse

import numpy as np

import fastbn

from .cases import Case, Data
from .fused import report
from .report import machine

SHAPES = (64, 100), (8, 64, 14, 14), (256, 1024), (32, 64, 28, 28), (32, 64, 56, 56)
SIZE = 4  # samples of a group
GROUPS = (256, 64, 14, 14), (256, 16, 7, 7)
LAYOUTS = "channels_first", "channels_last"


def of_passes(d):
    """{group: {name: call}} of what is made of a gradient's passes; the first is held to others."""
    y, saved = fastbn.forward(d.x, d.weight, d.bias)
    stats = saved.stats

    def halves():
        sums = fastbn.backward_sums(d.dy, d.x, stats)
        return fastbn.backward_input(d.dy, d.x, stats, sums, d.weight)

    layer, renorm = fastbn.BatchNorm(d.x.shape[1]), fastbn.BatchRenorm(d.x.shape[1])
    backward = {"backward": lambda: fastbn.backward(d.dy, saved)}
    normalize = {"normalize": lambda: fastbn.normalize(d.x, stats, d.weight, d.bias)}
    return {
        "both halves": {"halves": halves} | backward,
        "double_backward": {"double": lambda: fastbn.double_backward(d.dy, saved, y)} | backward,
        "denormalize": {"inverse": lambda: fastbn.denormalize(y, stats, d.weight, d.bias)}
        | normalize,
        "BatchRenorm": {"renorm": lambda: renorm(d.x)} | {"BatchNorm": lambda: layer(d.x)},
    }


def of_groups(d):
    """The same of ghost batch norm."""
    ghost, layer = (
        fastbn.BatchNorm(d.x.shape[1], virtual_batch_size=size) for size in (SIZE, None)
    )
    groups = [slice(k, k + SIZE) for k in range(0, len(d.x), SIZE)]
    ghost(d.x)
    each = [fastbn.forward(d.x[k], layer.weight, layer.bias)[1] for k in groups]
    whole = fastbn.forward(d.x, layer.weight, layer.bias)[1]

    def one_by_one():
        for k in groups:
            fastbn.forward(d.x[k], layer.weight, layer.bias)

    def backwards():
        for k, saved in zip(groups, each, strict=True):
            fastbn.backward(d.dy[k], saved)

    count = f"{len(groups)} calls"
    forward = {"ghost": lambda: ghost(d.x), count: one_by_one, "one call": lambda: layer(d.x)}
    backward = {"ghost": lambda: ghost.backward(d.dy), count: backwards}
    one = {"one call": lambda: fastbn.backward(d.dy, whole)}
    return {"ghost forward": forward, "ghost backward": backward | one}


def rows(shapes=SHAPES, groups=GROUPS, layouts=LAYOUTS):
    """(group, data, calls) of every row."""
    for shape in shapes:
        data = Data(Case("algebra", shape), LAYOUTS[0], "float32")
        yield from ((name, data, calls) for name, calls in of_passes(data).items())
    for shape in groups:
        for layout in layouts:
            data = Data(Case("algebra", shape), layout, "float32")
            yield from ((name, data, calls) for name, calls in of_groups(data).items())


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.algebra",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="a row: %(default)s")
    options = parser.parse_args()
    with np.errstate(all="ignore"):
        report(rows(), options.seconds)
    print(machine(["fastbn"]))


if __name__ == "__main__":
    main()
