"""Arrays that do not fit are refused by name, and nothing is changed."""

from refusals import ARRAYS, assert_refused, each


@each(ARRAYS)
def test_arrays_are_refused(call, argument, bad, kind, message):
    assert_refused(call, argument, bad, kind, message)
