"""What is known about the process and its processor."""

import fastbn


def test_config_info():
    info = fastbn.config_info()
    text = " ".join(map(str, info)).lower()
    for word in ("fastbn", "numpy", "numba", "cpu", "threads", "layer", "cache", "kept"):
        assert word in text
    assert str(fastbn.get_num_threads()) in " ".join(map(str, info.values()))
