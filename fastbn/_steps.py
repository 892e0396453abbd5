"""The steps of a pass: C functions, for a range of channels, blocks or values each.

- ``shift(first, last)``: for channels, before they are summed.
- ``sum(first, last)``: leave the partial sums of some blocks.
- ``merge(first, last)``: of channels; returns whether some have to be summed once more, exactly.
- ``prepare(first, last)``: the coefficients of channels, before they are written.
- ``write(first, last)``: some values of the output.

All are called as ``step(t, exact, first, last, context)``, where t is the number of the thread.
"""

import numpy as np

from . import _channels, _columns, _plan, _rows
from . import _workspace as _w
from ._jit import Step, array_at, block, span
from ._runs import FOUR, NINE, ONE, THREE, TWO, ZERO, shifts

# What a pass has to do, as a sum of these. FIXED treats the statistics as constants.
REDUCE, WRITE, FIXED = 1, 2, 4


def _reader(real):
    """Make what reads a context for data of a dtype."""

    def read(address):
        context = array_at(address, _w.WORDS, np.uintp)
        plan = array_at(context[_w.PLAN], _plan.SIZE, np.uintp)
        work = array_at(context[_w.WORK], plan[_plan.SCRATCH], np.float64)
        values = array_at(context[_w.VALUES], NINE * plan[_plan.ROOM], real)
        size = plan[_plan.N] * plan[_plan.C] * plan[_plan.L]
        x = array_at(context[_w.X], size, real)
        dy = array_at(context[_w.DY], size, real)
        out = array_at(context[_w.OUT], size, real)
        return context, plan, work, values, x, dy, out

    read.__qualname__ = f"read {real.__name__}"  # see `Step`
    return block(read)


@block
def _moments(context, plan):
    """mean, m2 and invstd."""
    c = plan[_plan.C]
    stats = array_at(context[_w.STATS], THREE * c, np.float64)
    return span(stats, ZERO, c), span(stats, c, c), span(stats, TWO * c, c)


def _forward(real, read):
    """Per channel, in a forward pass."""

    def shift(t, exact, first, last, address):
        _, plan, work, values, x, _, _ = read(address)
        _channels.shift_near(plan, x, work, shifts(plan, values), first, last)
        return 0

    def merge(t, exact, first, last, address):
        context, plan, work, values, _, _, _ = read(address)
        shift, (mean, m2, _) = shifts(plan, values), _moments(context, plan)
        if not _channels.merge_moments(plan, exact, work, shift, mean, m2, first, last):
            return 0
        _channels.shift_to(mean, shift, first, last)
        return 1

    def prepare(t, exact, first, last, address):
        context, plan, work, values, _, _, out = read(address)
        mean, m2, invstd = _moments(context, plan)
        c, numbers = plan[_plan.C], plan[_plan.NUMBERS]
        count, eps = work[numbers], work[numbers + ONE]
        _channels.invert_deviations(count, eps, m2, invstd, first, last)
        weight, bias = array_at(context[_w.WEIGHT], c, real), array_at(context[_w.BIAS], c, real)
        _channels.forward_coefficients(plan, weight, bias, mean, invstd, values, first, last)
        _channels.widen(plan, THREE, out, values)
        return 0

    return {"shift forward": shift, "merge forward": merge, "prepare forward": prepare}


def _backward(real, read):
    """The same in a backward pass."""

    def shift(t, exact, first, last, address):
        context, plan, _, values, _, _, _ = read(address)
        mean, _, _ = _moments(context, plan)
        _channels.shift_to(mean, shifts(plan, values), first, last)
        return 0

    def merge(t, exact, first, last, address):
        context, plan, work, values, _, _, _ = read(address)
        shift, (mean, _, invstd) = shifts(plan, values), _moments(context, plan)
        c = plan[_plan.C]
        dweight = array_at(context[_w.DWEIGHT], c, real)
        dbias = array_at(context[_w.DBIAS], c, real)
        lost = _channels.merge_gradients(
            plan, exact, work, shift, mean, invstd, dweight, dbias, first, last
        )
        return 1 if lost else 0

    def prepare(t, exact, first, last, address):
        context, plan, work, values, _, _, out = read(address)
        mean, _, invstd = _moments(context, plan)
        weight = array_at(context[_w.WEIGHT], plan[_plan.C], real)
        fixed = context[_w.TASK] & FIXED
        _channels.backward_coefficients(
            plan, fixed, weight, mean, invstd, work, values, first, last
        )
        _channels.widen(plan, FOUR, out, values)
        return 0

    return {"shift backward": shift, "merge backward": merge, "prepare backward": prepare}


def _by(family, name, read):
    """Sums of blocks, and what is written, by rows or by columns."""
    reduce, write = family.reduce, family.write

    def sum_x(t, exact, first, last, address):
        _, plan, work, values, x, _, _ = read(address)
        reduce(t, plan, exact, x, None, work, values, first, last)
        return 0

    def sum_both(t, exact, first, last, address):
        _, plan, work, values, x, dy, _ = read(address)
        reduce(t, plan, exact, x, dy, work, values, first, last)
        return 0

    def write_x(t, exact, first, last, address):
        _, plan, _, values, x, _, out = read(address)
        write(plan, x, None, out, values, first, last)
        return 0

    def write_dy(t, exact, first, last, address):
        _, plan, _, values, _, dy, out = read(address)
        write(plan, None, dy, out, values, first, last)
        return 0

    def write_both(t, exact, first, last, address):
        _, plan, _, values, x, dy, out = read(address)
        write(plan, x, dy, out, values, first, last)
        return 0

    return {
        f"sum x by {name}": sum_x,
        f"sum x and dy by {name}": sum_both,
        f"write x by {name}": write_x,
        f"write dy by {name}": write_dy,
        f"write x and dy by {name}": write_both,
    }


def _steps(dtype: np.dtype) -> dict[str, Step]:
    """All steps for data of a dtype, by name."""
    read = _reader(dtype.type)
    functions = _forward(dtype.type, read) | _backward(dtype.type, read)
    functions |= _by(_rows, "rows", read) | _by(_columns, "columns", read)
    return {name: Step(f"{dtype} {name}", function) for name, function in functions.items()}


STEPS = {dtype: _steps(dtype) for dtype in (np.dtype(np.float32), np.dtype(np.float64))}
