"""Converted and fused models in torch.compile and torch.export."""

import io

import pytest

torch = pytest.importorskip("torch")

from functorch.compile import make_boxed_func
from nets import Net, block, data, gradients, norm, same, small, versions
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor import cpp_builder

from fastbn.adapters.torch import batch_norm


def has_compiler():
    try:
        return bool(cpp_builder.get_cpp_compiler())
    except Exception:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
# PyTorch's own, of several kinds and by version.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
OPERATORS = {
    "forward": torch.ops.fastbn.forward.default,
    "normalize": torch.ops.fastbn.normalize.default,
    "update": torch.ops.fastbn.update_running_stats.default,
    "backward": torch.ops.fastbn.backward.default,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Nothing compiled earlier, nor left behind."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Recorder:
    """A backend that keeps what it is given to compile, forward and backward."""

    def __init__(self):
        self.targets = []

    def __call__(self, module, inputs):
        def keep(graph, _):
            self.targets += [node.target for node in graph.graph.nodes]
            return make_boxed_func(graph.forward)

        return aot_autograd(fw_compiler=keep, bw_compiler=keep)(module, inputs)


def agree(eager, compiled, net, shapes):
    """Outputs, gradients and states of an eager net, and of another's compiled form."""
    for seed, shape in enumerate(shapes):
        x = data(shape, seed=seed)
        same(gradients(net, x, compiled), gradients(eager, x))


@needs_compiler
def test_inductor_trains_and_evaluates():
    nets = versions(nn.Sequential(Net(block), norm(momentum=None)))
    compiled = torch.compile(nets["fused"], fullgraph=True, dynamic=True)
    agree(nets["eager"], compiled, nets["fused"], [(4, 3, 6, 5), (3, 3, 7, 8)])
    nets["eager"].eval(), nets["fused"].eval()
    agree(nets["eager"], compiled, nets["fused"], [(4, 3, 6, 5)])


@pytest.mark.parametrize("version", ["converted", "fused"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_operators_are_what_is_compiled(version, training, momentum):
    nets = {name: net.train(training) for name, net in versions(small(momentum=momentum)).items()}
    recorder = Recorder()
    compiled = torch.compile(nets[version], backend=recorder, fullgraph=True)
    agree(nets["eager"], compiled, nets[version], [(4, 3, 6, 5), (2, 3, 7, 5), (3, 3, 8, 8)])
    names = {name for name, target in OPERATORS.items() if target in recorder.targets}
    assert "backward" in names
    assert ("forward" in names) is training
    assert ("normalize" in names) is not training
    assert not [t for t in recorder.targets if "native_batch_norm" in str(t)]


def test_a_compiled_model_sees_its_mode_change():
    nets = versions(Net(block))
    compiled = torch.compile(nets["fused"], backend="aot_eager", fullgraph=True)
    for training in (True, False, True):
        nets["eager"].train(training)
        nets["fused"].train(training)
        agree(nets["eager"], compiled, nets["fused"], [(4, 3, 6, 5)])


def test_channels_last():
    nets = versions(small())
    compiled = torch.compile(nets["fused"], backend="aot_eager", fullgraph=True)
    x = data((4, 3, 6, 5)).to(memory_format=torch.channels_last)
    found, expected = gradients(nets["fused"], x, compiled), gradients(nets["eager"], x)
    assert found["output"].stride() == expected["output"].stride()
    same(found, expected)


def test_gradients_within_what_is_compiled():
    def function(x):
        y = batch_norm(x, None, None, training=True)
        (dx,) = torch.autograd.grad(y.pow(3).sum(), x)
        return dx

    x = data((4, 3)).requires_grad_()
    torch.testing.assert_close(
        torch.compile(function, backend="aot_eager")(x), function(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("version", ["converted", "fused"])
def test_export(version):
    nets = versions(small().eval())
    batch = torch.export.Dim("batch", min=2)
    x, other = data((4, 3, 6, 5)), data((7, 3, 6, 5), seed=1)
    exported = torch.export.export(nets[version], (x,), dynamic_shapes=({0: batch},))
    assert OPERATORS["normalize"] in [node.target for node in exported.graph.nodes]
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for program in (exported, exported.run_decompositions(), torch.export.load(file)):
        found = program.module()(other)
        torch.testing.assert_close(found, nets["eager"](other), rtol=1e-4, atol=1e-5)
