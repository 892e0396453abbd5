"""Bad input is refused by name, and nothing is changed: what public functions check themselves.

`test_validate` has the arrays, `test_errors` the numbers, `test_odd_input` what looks odd and is
right.
"""

import pytest
from calls import CALLS, world
from refusals import OTHERS, assert_refused, each
from wrong import always


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_right_before_they_are_made_wrong(name):
    w = world()
    arguments, function = CALLS[name]
    function(w, **arguments(w))


def test_a_change_would_be_seen(monkeypatch):
    def write(w, ddof):
        w.mean[0] = 1
        return w.stats.var(ddof)

    monkeypatch.setitem(CALLS, "var", (CALLS["var"][0], write))
    with pytest.raises(AssertionError, match="mean"):
        assert_refused("var", "ddof", always("one"), TypeError, "ddof")


@pytest.mark.usefixtures("keep_threads")
@each(OTHERS)
def test_refused(call, argument, bad, kind, message):
    assert_refused(call, argument, bad, kind, message)
