"""One batch norm over three processes is that of one process: on the CPU, over gloo."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import process
import ranks
from torch import distributed, nn

import fastbn
from fastbn.adapters.torch import SyncBatchNorm, _sync

pytestmark = pytest.mark.skipif(
    not distributed.is_available() or not distributed.is_gloo_available(), reason="no gloo"
)

TIMEOUT = 120  # seconds; kernels may have to compile
RANKS = range(ranks.SIZE)
ORACLES = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def start(job, folder):
    """Run a job in three processes: their exit codes, what each has saved, and their messages."""
    environment = os.environ | {"PYTHONPATH": process.python_path()}
    logs, children = [folder / f"{rank}.log" for rank in RANKS], []
    try:
        for rank, log in zip(RANKS, logs, strict=True):
            command = [sys.executable, ranks.__file__, job, str(rank), str(folder)]
            with log.open("w") as file:
                children.append(subprocess.Popen(command, env=environment, stderr=file))
        codes = [child.wait(TIMEOUT) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    found = [load(folder / f"{rank}.pt") for rank in RANKS]
    return codes, found, "".join(log.read_text() for log in logs)


def load(path):
    return torch.load(path) if path.exists() else None


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """What each case gave, by process."""
    codes, found, messages = start("right", tmp_path_factory.mktemp("right"))
    assert codes == [0, 0, 0], messages
    return {case: [each[case] for each in found] for case in found[0]}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """What the others saw of a process that failed."""
    codes, found, messages = start("wrong", tmp_path_factory.mktemp("wrong"))
    assert codes == [0, -signal.SIGKILL, 0], messages
    return [found[rank]["failures"] for rank in (0, 2)]


def tolerance(dtype):
    return {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 0.05}[dtype]


def differences(name, parts):
    """Of processes from one: the largest of each kind of result, relative to the result's size."""
    shape, dtype, _, options = ranks.SETTINGS[name]
    options = {"dtype": dtype, **options}
    alone = ranks.module(ORACLES[len(shape) + 1], name)
    steps, evaluated = ranks.two_steps(alone, [ranks.whole(name, step) for step in range(2)])
    for step, expected in enumerate(steps):
        got = [part[0][step] for part in parts]
        for key in ("y", "dx"):
            yield f"{key} {step}", torch.cat([g[key] for g in got]), expected[key]
        for i, grad in enumerate(expected["grads"]):
            if grad is not None:
                yield f"grad {i} {step}", sum(g["grads"][i] for g in got), grad
        for key, buffer in expected["buffers"].items():
            for g in got:
                yield f"{key} {step}", g["buffers"][key], buffer
    if options.get("track_running_stats", True):  # else they are those of each process
        for key, i in (("y", 0), ("dx", 1)):
            yield f"{key} evaluated", torch.cat([part[1][i] for part in parts]), evaluated[i]


def far(name, parts, limit):
    """The results that are no nearer than that."""
    return [
        what
        for what, got, expected in differences(name, parts)
        if got.shape != expected.shape
        or (got - expected).abs().max() > limit * max(1.0, float(expected.abs().max()))
    ]


@pytest.mark.parametrize("name", ranks.SETTINGS)
def test_processes_are_one_process(right, name):
    parts = [found[name] for found in right["settings"]]
    assert not far(name, parts, tolerance(ranks.SETTINGS[name][1]))


@pytest.mark.parametrize("name", ["2d channels last", "3d channels last"])
def test_channels_stay_last(right, name):
    last = torch.channels_last if name[0] == "2" else torch.channels_last_3d
    for found in right["settings"]:
        steps, _ = found[name]
        for tensor in (steps[1]["y"], steps[1]["dx"]):
            assert tensor.is_contiguous(memory_format=last)


def test_dtypes_and_running_statistics_are_the_same_in_each_process(right):
    for name, (_, dtype, *_) in ranks.SETTINGS.items():
        found = [rank[name][0][1] for rank in right["settings"]]
        assert {f["y"].dtype for f in found} == {f["dx"].dtype for f in found} == {dtype}
        for key, buffer in found[0]["buffers"].items():
            assert all(torch.equal(buffer, other["buffers"][key]) for other in found)


def test_processes_that_are_not_synchronised_differ(right):
    """The test above can fail."""
    wrong = far("2d", right["unsynchronised"], 1e-3)
    assert {"y 0", "dx 0", "grad 0 0", "running_mean 0", "running_var 0"} <= set(wrong)


def test_one_message_forward_and_one_backward(right):
    for counts, _, called in right["collectives"]:
        assert counts[:2] == [1, 1]
        assert called == ["all_gather", "then", "all_reduce"]


def test_a_frozen_input_needs_no_message_backward(right):
    for counts, (learning, frozen), _ in right["collectives"]:
        assert counts[3:] == [1, 0]
        assert torch.equal(learning, frozen)


def test_the_number_of_values_is_that_of_all(right):
    for rank, (one, two, none) in enumerate(right["few"]):
        assert "more than 1 value per channel" in one
        y, dx, mean, tracked = two
        assert tracked == 1
        torch.testing.assert_close(mean, torch.full_like(mean, 0.05))
        if rank < 2:
            expected = torch.full_like(y, (2 * rank - 1) * 0.25 / (0.25 * (0.25 + 1e-5)) ** 0.5)
            torch.testing.assert_close(y, expected)
            assert dx.abs().max() < 1e-12
        y, _, mean, tracked = none
        assert y.shape == (0, 2)
        assert not mean.any()
        assert tracked == 1  # PyTorch counts an empty batch


def test_subgroups(right):
    x = [torch.arange(8.0, dtype=torch.float64).reshape(2, 4) * (rank + 1) for rank in RANKS]
    for members in ([0, 2], [1]):
        given = torch.cat([x[rank] for rank in members])
        bn = nn.BatchNorm1d(4, dtype=torch.float64)
        for i, expected in enumerate(ranks.outputs(bn, given, given**2)):
            got = torch.cat([right["subgroups"][rank][i] for rank in members])
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_second_derivatives_are_refused(right):
    assert all("once_differentiable" in message for message in right["twice"])


def test_compiled(right):
    for plain, compiled, error in right["compiled"]:
        assert torch.equal(plain, compiled)
        assert error == "Unsupported"


def test_data_parallel_training_is_that_of_one_process(right):
    expected = ranks.trained(ranks.network())
    for state in right["data_parallel"]:
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9)


def test_one_that_does_not_call_is_waited_for_until_the_time_out(wrong):
    for failures in wrong:
        message, seconds = failures[0]
        assert "Timed out" in message
        assert 1 < seconds < 20  # which the other group waits


def test_one_that_is_killed_is_an_error_of_the_others(wrong):
    for failures in wrong:
        assert len(failures) >= 3
        assert all(failure and failure[1] < 20 for failure in failures[1:3])  # backward, forward


def test_fewer_channels_elsewhere_are_an_error(monkeypatch):
    """Gloo lets a shorter message pass; it ends the process that gets a longer one."""

    def all_gather(messages, message, group):
        messages[0].copy_(message)
        shorter = np.append(fastbn.Stats(3, np.ones(2), np.ones(2)).to_array(), 1.0)
        messages[1][: shorter.size] = torch.from_numpy(shorter)

    monkeypatch.setattr(distributed, "all_gather", all_gather)
    monkeypatch.setattr(distributed, "get_world_size", lambda group: 2)
    mine = fastbn.batch_stats(np.arange(12.0).reshape(3, 4))
    with pytest.raises(ValueError, match=r"as many channels .* got 4 here and fewer in \[1\]"):
        _sync._gathered(mine, None)


def test_without_processes_it_is_a_batch_norm():
    x = torch.randn(5, 4, dtype=torch.float64)
    bn, expected = (kind(4, dtype=torch.float64) for kind in (SyncBatchNorm, nn.BatchNorm1d))
    for training in (True, False):
        bn.train(training), expected.train(training)
        torch.testing.assert_close(bn(x), expected(x))
    with pytest.raises(ValueError, match="more than 1 value"):
        bn.train()(x[:1])
