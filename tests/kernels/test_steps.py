"""The steps of a pass: each has a symbol of its own in every process."""

import itertools

from numba.core.bytecode import FunctionIdentity

from fastbn._kernels import steps


def test_steps_have_symbols_of_their_own(monkeypatch):
    keys, names = list(steps.keys()), set()
    assert keys
    for key in keys:  # another process may have given each the same number
        monkeypatch.setattr(FunctionIdentity, "_unique_ids", itertools.count(1))
        names.add(FunctionIdentity.from_function(steps._made(key)._function).unique_name)
    assert len(names) == len(keys)
