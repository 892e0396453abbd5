"""Numbers and names that make no sense are refused by name, and nothing is changed."""

import pytest
from refusals import NUMBERS, assert_refused, each


@pytest.mark.usefixtures("keep_threads")
@each(NUMBERS)
def test_numbers_are_refused(call, argument, bad, kind, message):
    assert_refused(call, argument, bad, kind, message)
