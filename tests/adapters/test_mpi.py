"""One batch norm over four ranks is that of one process; errors of one are errors on all."""

import pickle

import numpy as np
import pytest

pytest.importorskip("mpi4py")
pytest.importorskip("fastbn.adapters.mpi", reason="no MPI to load", exc_type=ImportError)

import mpi_ranks
import process

import fastbn
from fastbn.adapters.mpi import SyncBatchNorm

RANKS = range(mpi_ranks.SIZE)
OTHERS = [rank for rank in RANKS if rank != mpi_ranks.SICK]
SECONDS = 10  # in which an error is one on all ranks
PATH = {"PYTHONPATH": process.python_path()}
STEPS = ("0", "1", "evaluated")


@pytest.fixture(scope="module")
def mpirun():
    """Skips what needs four ranks, where they cannot be started."""
    if mpi_ranks.launcher() is None:
        pytest.skip("no mpirun or mpiexec")
    code = "from mpi4py import MPI; assert MPI.COMM_WORLD.size == 4"
    ended, output = mpi_ranks.start(["-c", code], {}, 60)
    if ended != 0:
        pytest.skip(f"mpirun starts no four ranks of mpi4py's MPI: {output[-300:]}")


def run(job, folder, limit=mpi_ranks.LIMIT):
    """What each rank has found."""
    command = [mpi_ranks.__file__, job, str(folder), str(limit)]
    ended, output = mpi_ranks.start(command, PATH, limit + 15)
    assert ended == 0, output
    found = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in RANKS]
    return {case: [each[case] for each in found] for case in found[0]}


@pytest.fixture(scope="module")
def compiled():
    """Kernels in the cache: else each rank compiles all of them, on the cores that they share."""
    for name in mpi_ranks.SETTINGS:
        batches = [mpi_ranks.whole(name, step) for step in range(2)]
        mpi_ranks.two_steps(mpi_ranks.layer(SyncBatchNorm, name), batches)
    mpi_ranks.splits(0)


@pytest.fixture(scope="module")
def right(mpirun, compiled, tmp_path_factory):
    return run("right", tmp_path_factory.mktemp("right"))


@pytest.fixture(scope="module")
def wrong(mpirun, compiled, tmp_path_factory):
    return run("wrong", tmp_path_factory.mktemp("wrong"))


def tolerance(name):
    dtype = np.dtype("float64") if name == "integers" else mpi_ranks.whole(name, 0)[0].dtype
    return {"float64": 1e-9, "float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype.name]


def joined(name, parts, step):
    """Of one step of all ranks, what one process would have."""
    got = [part[step] for part in parts]
    for key, value in got[0].items():
        if value is None:
            yield key, None
        elif key in ("y", "dx", "residual_grad"):
            yield key, np.concatenate([g[key] for g in got])
        elif "grad" in key:
            yield key, sum(g[key] for g in got)
        else:
            yield key, value


def far(name, parts, expected, limit):
    """The results that are no nearer than that, relative to their size."""
    found = []
    without = not mpi_ranks.SETTINGS[name][3].get("track_running_stats", True)
    for i, step in enumerate(STEPS):
        for key, value in joined(name, parts, i):
            other = expected[i].get(key)
            assert (value is None) == (other is None) or (without and key in ("y", "dx"))
            if value is not None:
                value, other = np.asarray(value, np.float64), np.asarray(other, np.float64)
                assert value.shape == other.shape
                if value.size and np.abs(value - other).max() > limit * max(1, np.abs(other).max()):
                    found.append(f"{key} {step}")
    return found


def one_process(name):
    batches = [mpi_ranks.whole(name, step) for step in range(2)]
    return mpi_ranks.two_steps(mpi_ranks.layer(mpi_ranks.alone, name), batches)


@pytest.mark.parametrize("name", mpi_ranks.SETTINGS)
def test_ranks_are_one_process(right, name):
    parts = [found[name] for found in right["settings"]]
    assert far(name, parts, one_process(name), tolerance(name)) == []


@pytest.mark.parametrize("name", ["rows", "images", "relu", "no momentum"])
def test_ranks_are_one_process_of_pytorch(right, name):
    torch = pytest.importorskip("torch")
    ours = mpi_ranks.layer(mpi_ranks.alone, name)
    kind = torch.nn.BatchNorm2d if name == "images" else torch.nn.BatchNorm1d
    bn, expected = kind(3, momentum=ours.momentum, dtype=torch.float64), []
    bn.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    for step in (0, 1, 0):
        x, dy, _ = map(torch.tensor, (*mpi_ranks.whole(name, step)[:2], 0))
        bn.zero_grad()
        y = bn(x.requires_grad_())
        y = torch.relu(y) if name == "relu" else y
        y.backward(dy)
        found = {"y": y, "dx": x.grad, "weight_grad": bn.weight.grad, "bias_grad": bn.bias.grad}
        found |= {"running_mean": bn.running_mean, "running_var": bn.running_var}
        found = {key: value.detach().numpy().copy() for key, value in found.items()}
        expected.append(found | {"tracked": bn.num_batches_tracked.item(), "residual_grad": None})
        bn.train(len(expected) < 2)
    assert far(name, [found[name] for found in right["settings"]], expected, 1e-9) == []


def test_running_statistics_are_the_same_bits_on_all_ranks(right):
    for name in mpi_ranks.SETTINGS:
        first, *others = [found[name][1] for found in right["settings"]]
        for other in others:
            for key in ("running_mean", "running_var"):
                assert np.array_equal(first[key], other[key])


@pytest.mark.parametrize("name", mpi_ranks.SETTINGS)
def test_types_are_those_of_batch_norm(right, name):
    for step, expected in enumerate(one_process(name)):
        for found in right["settings"]:
            for key, value in found[name][step].items():
                assert getattr(value, "dtype", None) == getattr(expected[key], "dtype", None)


def test_gradients_of_parameters_are_each_ranks_own(right):
    grads = [found["images"][0] for found in right["settings"]]
    assert not grads[1]["weight_grad"].any()  # of no samples
    assert not grads[1]["bias_grad"].any()
    for rank in RANKS:
        dy = mpi_ranks.part(mpi_ranks.whole("images", 0)[1], 0, rank)
        np.testing.assert_allclose(grads[rank]["bias_grad"], dy.sum(axis=(0, 2, 3)), atol=1e-12)


def test_ranks_that_are_not_synchronised_differ(right):
    """The tests above can fail."""
    found = far("images", right["unsynchronised"], one_process("images"), 1e-3)
    assert {"y 0", "dx 0", "weight_grad 0", "running_mean 0", "running_var 0"} <= set(found)


def test_one_message_a_pass_and_none_in_evaluation(right):
    for rank, counts in enumerate(right["messages"]):
        statistics, sums = 192 + 8 * (2 + 4 * 3), 192 + 8 * 2 * 3
        assert counts["made"] == counts["lazy made"] == [("Allgather", 512)]
        assert counts["forward"] == counts["update=False"] == [("Allgather", statistics)]
        assert counts["backward"] == [("Allgather", sums)]
        assert counts["lazy first"] == [("Allgather", 192), ("Allgather", statistics)]
        assert counts["lazy second"] == [("Allgather", statistics)]
        if rank < 2:
            assert counts["evaluation"] == counts["its backward"] == []


def test_the_number_of_values_is_that_of_all_ranks(right):
    for rank, (one, two, none, keras) in enumerate(right["few"]):
        assert "Expected more than 1 value per channel when training, in all ranks" in one
        y, dx, mean, grad, tracked = two
        assert tracked == 1
        np.testing.assert_allclose(mean, 0.05)
        if rank < 2:
            np.testing.assert_allclose(y, (2 * rank - 1) * 0.5 / (0.25 + 1e-5) ** 0.5)
            assert np.abs(dx).max() < 1e-4
        y, dx, mean, grad, tracked = none
        assert y.shape == dx.shape == (0, 2)
        assert tracked == 0
        assert not mean.any()
        assert not grad.any()
        y, _, mean, _, tracked = keras
        assert tracked == 1
        assert not y.any()  # the bias


def test_each_communicator_is_a_batch_of_its_own(right):
    for rank, means in enumerate(right["communicators"]):
        assert means["world"] == means["pickle"] == 1.5
        assert means["self"] == rank
        assert means["split"] == 1 + rank % 2
        assert means["deep copy"] == (2 + rank % 2, 1 + rank % 2)
        assert means["pickle of a split"][:2] == (
            "ValueError",
            "cannot serialize 'mpi4py.MPI.Intracomm' instance",
        )


def test_what_is_no_communicator_of_one_group_is_refused(right):
    for means in right["communicators"]:
        for name, kind, words in (
            ("inter", "ValueError", "an intracommunicator, got an intercommunicator"),
            ("null", "ValueError", "got MPI.COMM_NULL"),
            ("word", "TypeError", "comm should be a communicator of mpi4py, got str"),
        ):
            assert means[name][0] == kind
            assert words in means[name][1]


def test_ranks_may_know_the_number_of_channels_before_they_agree_on_it(right):
    for mean in right["known"]:
        np.testing.assert_allclose(mean, mpi_ranks.X.mean(axis=(0, 2)) + 1.5, rtol=1e-12)


def test_a_setting_that_nothing_uses_may_be_wrong_on_a_rank(right):
    for mean in right["unused"]:
        np.testing.assert_allclose(mean, mpi_ranks.X.mean(axis=(0, 2)) + 1.5, rtol=1e-12)


def test_the_last_of_two_calls_has_the_gradient_and_may_have_it_twice(right):
    assert max(right["twice"]) < 1e-9


def test_random_splits_are_one_process(right):
    for found in right["splits"]:
        assert [case for case in found if not case[0] < 1e-9] == []
    assert len(found) == 60


def check(errors, kind, words, everyone=False):
    """An error of the sick rank's own there, and one that names it on the others."""
    for rank, (name, text, seconds) in enumerate(errors):
        assert seconds < SECONDS
        assert words in text
        if rank == mpi_ranks.SICK or everyone:
            assert name == kind
        else:
            assert name == "RuntimeError"
            assert text.startswith(f"SyncBatchNorm failed on rank 2 with {kind}: ")


@pytest.mark.parametrize(
    ("case", "name", "kind", "words"),
    [
        *(("sick_forward", name, *row[1:]) for name, row in mpi_ranks.FORWARD.items()),
        *(("sick_backward", name, *row[1:]) for name, row in mpi_ranks.BACKWARD.items()),
        ("sick_lazy", "complex", "TypeError", "complex128"),
    ],
)
def test_bad_input_of_one_rank_is_an_error_on_all(wrong, case, name, kind, words):
    found = [rank[name] for rank in wrong[case]]
    check([error for error, *_ in found], kind, words)
    assert all(unchanged for _, unchanged, _ in found)
    assert all(works for *_, works in found)


@pytest.mark.parametrize(
    ("case", "name", "kind", "words"),
    [
        ("sick_lazy", "channels", "ValueError", "got 3 on ranks 0, 1, 3, 5 on rank 2"),
        ("sick_lazy", "nonfinite", "FloatingPointError", "in channels [0, 1, 2]"),
        ("sick_lazy", "before", "RuntimeError", "before forward"),
        ("wrong_together", "dtype", "ValueError", "got float64 on ranks 0, 1, 3, float32 on"),
        ("wrong_together", "one value", "ValueError", "in all ranks together"),
        ("wrong_together", "nonfinite", "FloatingPointError", "in channels [0, 1, 2]"),
    ],
)
def test_what_is_wrong_in_all_together_is_the_same_error_on_all(wrong, case, name, kind, words):
    found = [rank[name] for rank in wrong[case]]
    check([error for error, *_ in found], kind, words, everyone=True)
    assert all(unchanged for _, unchanged, _ in found)
    assert all(works for *_, works in found)


@pytest.mark.parametrize("name", mpi_ranks.MADE)
def test_a_bad_argument_of_one_rank_is_an_error_on_all(wrong, name):
    check([rank[name] for rank in wrong["sick_made"]], *mpi_ranks.MADE[name][1:])


@pytest.mark.parametrize("name", mpi_ranks.DIFFERENT)
def test_settings_that_differ_are_an_error_on_all(wrong, name):
    errors = [rank[f"{name} differs"] for rank in wrong["sick_made"]]
    check(errors, "ValueError", mpi_ranks.DIFFERENT[name][1], everyone=True)


def test_the_type_of_an_empty_part_does_not_matter(wrong):
    found = [rank["empty of another dtype"] for rank in wrong["wrong_together"]]
    assert [name for name, _ in found] == ["float64", "float64", "float16", "float64"]
    for _, mean in found:
        np.testing.assert_allclose(mean, mpi_ranks.X[:, :, 0].mean(axis=0) / 10)


def test_one_that_does_not_call_hangs_all_and_not_this_test(mpirun, tmp_path):
    """The tests above cannot wait for ever."""
    command = [mpi_ranks.__file__, "hung", str(tmp_path), "4"]
    ended, output = mpi_ranks.start(command, PATH, 30)
    assert ended not in (0, "timeout")
    assert "Timeout (0:00:04)" in output
    assert not list(tmp_path.iterdir())


def test_a_launcher_that_hangs_is_ended():
    if mpi_ranks.launcher() is None:
        pytest.skip("no mpirun or mpiexec")
    ended, _ = mpi_ranks.start(["-c", "import time; time.sleep(600)"], {}, 2)
    assert ended == "timeout"


def test_one_rank_alone_is_a_batch_norm():
    from mpi4py import MPI

    x, dy = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    bn, alone = SyncBatchNorm(4, MPI.COMM_SELF), fastbn.BatchNorm(4)
    for training in (True, False):
        bn.train(training), alone.train(training)
        np.testing.assert_array_equal(bn(x), alone(x))
        np.testing.assert_allclose(bn.backward(dy), alone.backward(dy), atol=1e-6)
    for name, value in alone.state_dict().items():
        np.testing.assert_array_equal(bn.state_dict()[name], value)
    assert repr(bn) == f"Sync{alone!r}"
