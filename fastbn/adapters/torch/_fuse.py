"""A model as a graph, in which batch norm and what follows it are one pass."""

import copy as copying
import logging
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.lazy import LazyModuleMixin

from . import _modules as ours

BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(ours.BatchNorm1d, ours.BatchNorm2d, ours.BatchNorm3d),
)
OTHERS = nn.modules.batchnorm._BatchNorm  # derived from it: reported on
HOOKS = "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"

RELU = {nn.ReLU, functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_"}
LEAKY_RELU = {nn.LeakyReLU, functional.leaky_relu, functional.leaky_relu_}
ADD = {operator.add, torch.add, "add"}
KNOWN = "torch", "_operator", "builtins", "math"  # functions whose names say whether they write

_log = logging.getLogger("fastbn.adapters.torch")


class Fusion(NamedTuple):
    """What became of a batch norm."""

    module: str
    operations: tuple[str, ...]  # that it was fused with
    reason: str = ""  # why there are none

    def __str__(self) -> str:
        if self.operations:
            return f"{self.module}: fused with {' and '.join(self.operations)}"
        return f"{self.module}: not fused, {self.reason}"


class Chain(NamedTuple):
    """A batch norm and what follows it: one pass, if nothing else reads or changes its values."""

    norm: fx.Node
    add: fx.Node | None
    residual: fx.Node | None
    end: fx.Node
    activation: str
    negative_slope: float


def fused(model: nn.Module) -> fx.GraphModule:
    """A graph module of the model's parameters, buffers and state keys, fused and reported on."""
    copy, graph = _traced(model)
    report: dict[fx.Node, Fusion] = {}
    # A ReLU in place that is fused no longer stands between others; and of two batch norms that
    # are added, the later one has less behind it that might.
    norms = [node for node in graph.nodes if isinstance(_module(copy, node), OTHERS)]
    for with_residual in (False, True):
        for node in reversed(norms):
            if node not in report or report[node].reason:
                report[node] = _fuse(copy, graph, node, with_residual)
    made = _graph_module(model, copy, graph)
    made.meta["fastbn"] = [report[node] for node in norms]
    _log.info("%s:\n%s", type(model).__name__, "\n".join(map(str, made.meta["fastbn"])))
    return made


def separate(made: fx.GraphModule) -> None:
    """Undo what `fused` did to a graph."""
    for node in list(made.graph.nodes):
        if node.op != "call_module" or "activation" not in node.kwargs:
            continue
        activation, slope = node.kwargs["activation"], node.kwargs["negative_slope"]
        with made.graph.inserting_before(node):
            y = made.graph.call_module(node.target, node.args)
            if node.kwargs["residual"] is not None:
                add = operator.iadd if node.kwargs["in_place"] else operator.add
                y = made.graph.call_function(add, (y, node.kwargs["residual"]))
            if activation == "relu":
                y = made.graph.call_function(functional.relu, (y,))
            else:
                y = made.graph.call_function(functional.leaky_relu, (y, slope))
        node.replace_all_uses_with(y)
        made.graph.erase_node(node)
    made.recompile()
    made.meta.pop("fastbn", None)


# --- tracing --------------------------------------------------------------------------------------


class _Proxy(fx.Proxy):
    """A value whose `+=` is one: to torch.fx it is an addition, which other readers do not see."""


def in_place(name: str, a: Any, b: Any) -> Any:
    """An operator such as `iadd`: torch.fx writes it `a += b`, which takes a number's old value."""
    return getattr(operator, name)(a, b)


def _recorded(name: str) -> Any:
    """The method of a `_Proxy` for an operator."""
    return lambda a, b: a.tracer.create_proxy("call_function", in_place, (name, a, b), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"):
    setattr(_Proxy, f"__{_name}__", _recorded(_name))


class _Tracer(fx.Tracer):
    """Goes through modules of other people, not through batch norms."""

    proxy_buffer_attributes = True  # what changes a buffer is an operation

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = isinstance(m, (OTHERS, torch.jit.ScriptModule))
        return leaf or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        """Refuse what would run while it is traced, and never again."""
        if _hooked(m) and not self.is_leaf_module(m, self.path_of_module(m)):
            raise ValueError(
                "model should have hooks only on modules that are operations, or fuse=False: those "
                f"of {self.path_of_module(m)!r} ({type(m).__name__}) would not run in a graph"
            )
        return super().call_module(m, forward, args, kwargs)


def _traced(model: nn.Module) -> tuple[nn.Module, fx.Graph]:
    """A copy that shares all but the modules themselves, and its graph, of either mode."""
    _check(model)
    graphs, constants = [], []
    for training in (False, True):
        copy = _copy(model, {})
        graph = _graph(copy, training)
        graphs.append(graph)
        names = (str(node.target) for node in graph.nodes if node.op == "get_attr")
        constants.append([operator.attrgetter(name)(copy) for name in names])
    lines = [str(graph).splitlines() for graph in graphs]
    if lines[0] != lines[1]:
        pairs = zip(*lines, strict=False)
        first = next((a, b) for a, b in pairs if a != b)
        raise ValueError(
            "model should not depend on self.training but in its modules, or fuse=False: its "
            f"operations differ, in evaluation {first[0].strip()}, in training {first[1].strip()}"
        )
    if not all(map(_equal, *constants)):
        raise ValueError(
            "model should make the same tensors each time, or fuse=False: those that do not depend "
            "on its input would be constants of the graph, such as random ones"
        )
    return copy, graphs[1]


def _check(model: nn.Module) -> None:
    """Raise an error for what a graph module would leave out."""
    if _hooked(model):
        raise ValueError("model should have no hooks of its own, or fuse=False")
    if type(model).train not in (nn.Module.train, fx.GraphModule.train):
        raise ValueError(
            "model should not have a train() of its own, or fuse=False: a graph module would not "
            f"call that of {type(model).__name__}"
        )
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin):
            raise ValueError(f"model should have seen an input before fuse=True, {name} is lazy")


def _graph(copy: nn.Module, training: bool) -> fx.Graph:
    """What a copy does in a mode; its own modes stay."""
    modes = [(module, module.training) for module in copy.modules()]
    try:
        for module, _ in modes:
            module.training = training
        return _Tracer().trace(copy)
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, fx.proxy.TraceError):
            raise
        raise ValueError(
            "model should do the same operations whatever its input, or fuse=False: "
            f"torch.fx cannot trace it ({type(error).__name__}: {error})"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def _equal(a: Any, b: Any) -> bool:
    """Whether constants of two traces are the same."""
    if a is b or not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return a is b
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and bool(torch.isclose(a, b, rtol=0.0, atol=0.0, equal_nan=True).all())


def _copy(module: nn.Module, memo: dict[nn.Module, nn.Module]) -> nn.Module:
    """Modules that share their parameters, buffers and all else but the modules in them."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    if module not in memo:
        made = memo[module] = object.__new__(type(module))
        made.__dict__.update(module.__dict__)
        made.__dict__["_modules"] = {
            name: None if child is None else _copy(child, memo)
            for name, child in module._modules.items()
        }
    return memo[module]


class _GraphModule(fx.GraphModule):
    """One whose copies, too, have what its graph does not use, and the report."""

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        made = super().__deepcopy__(memo)
        made.__dict__.update(copying.deepcopy(self._kept(), memo))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (*super().__reduce__(), self._kept())

    def _kept(self) -> dict[str, Any]:
        names = "_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "meta"
        return {name: self.__dict__[name] for name in names}


def _restored(load: Any, given: tuple[Any, ...], kept: dict[str, Any]) -> fx.GraphModule:
    """A graph module from a file."""
    loaded = load(*given)
    made = _GraphModule(loaded, loaded.graph, class_name=type(loaded).__name__)
    own = {name: value for name, value in vars(loaded).items() if name not in vars(made)}
    made.__dict__.update(own | kept)
    return made


def _graph_module(model: nn.Module, copy: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph module of the copy's modules, also of those that the graph does not call."""
    made = _GraphModule(copy, graph, class_name=type(model).__name__)
    constants = {name: made._buffers[name] for name in made._buffers if name not in copy._buffers}
    made.__dict__["_modules"], made.__dict__["_parameters"] = copy._modules, copy._parameters
    made.__dict__["_buffers"] = {**copy._buffers, **constants} if constants else copy._buffers
    kept = copy._non_persistent_buffers_set | set(constants)  # no keys of their own
    made.__dict__["_non_persistent_buffers_set"] = kept
    return made


# --- fusing ---------------------------------------------------------------------------------------


def _fuse(copy: nn.Module, graph: fx.Graph, node: fx.Node, with_residual: bool) -> Fusion:
    """Fuse a batch norm with an activation, or with an addition and an activation."""
    name, found = str(node.target), _chain(copy, node)
    if isinstance(found, str):
        return Fusion(name, (), found)
    if found.add is not None and not with_residual:
        return Fusion(name, (), "its turn comes later")
    if reason := _obstacle(copy, graph, found):
        return Fusion(name, (), reason)
    with graph.inserting_before(found.end):
        made = graph.call_module(
            name,
            node.args,
            {
                "residual": found.residual,
                "activation": found.activation,
                "negative_slope": found.negative_slope,
                "in_place": found.add is not None and _adds_in_place(found.add),
            },
        )
    found.end.replace_all_uses_with(made)
    for old in (found.end, found.add, node):
        if old is not None:
            graph.erase_node(old)
    return Fusion(name, (*["addition"] * (found.add is not None), found.activation))


def _obstacle(copy: nn.Module, graph: fx.Graph, chain: Chain) -> str:
    """Why a batch norm may not be computed where its chain ends, if so."""
    end, norm = chain.end, copy.get_submodule(str(chain.norm.target))
    own = {id(buffer) for buffer in norm.buffers()}
    for node in graph.nodes:
        if node.op == "get_attr" and id(operator.attrgetter(node.target)(copy)) in own:
            return f"{node.name} is read besides"
    for node in _between(chain):
        if _writes(copy, node):
            return f"{node.name} between it and {end.name} writes in place"
        other = _module(copy, node)
        if other is not None and any(id(buffer) in own for buffer in other.buffers()):
            return f"{node.name} between it and {end.name} has the same buffers"
    if chain.residual is not None:
        for node in chain.residual.users:
            if end < node and _writes(copy, node):
                return f"{node.name} writes in {chain.residual.name}, which it would keep"
    return ""


def _chain(copy: nn.Module, node: fx.Node) -> Chain | str:
    """What follows a batch norm, or why it cannot be fused."""
    module = _module(copy, node)
    if type(module) not in BATCH_NORMS:
        return f"it is a {type(module).__name__}"
    if "activation" in node.kwargs:
        return "it is fused already"
    if _hooked(module):
        return "it has hooks"
    if len(node.args) != 1 or node.kwargs:
        return "it is called with other arguments than its input"
    if len(node.users) != 1:
        return f"its output has {len(node.users)} readers"
    end, add, residual = next(iter(node.users)), None, None
    if (other := _added(end, node)) is not None:
        add, residual = end, other
        if len(add.users) != 1:
            return f"its sum with {residual.name} has {len(add.users)} readers"
        end = next(iter(add.users))
    found = _activation(copy, end, node if add is None else add)
    if isinstance(found, str):
        return found
    return Chain(node, add, residual, end, *found)


def _added(node: fx.Node, norm: fx.Node) -> fx.Node | None:
    """What a node adds to a batch norm's output, if it is a sum of two tensors."""
    args = node.args[1:] if node.target is in_place else node.args
    if len(args) != 2 or node.kwargs or args[0] is args[1]:
        return None
    first, second = args
    if node.target in ADD and second is norm:
        first, second = second, first
    elif node.target not in ADD and not _adds_in_place(node):
        return None
    return second if first is norm and isinstance(second, fx.Node) else None


def _adds_in_place(node: fx.Node) -> bool:
    return node.target == "add_" or (node.target is in_place and node.args[0] == "iadd")


def _activation(copy: nn.Module, node: fx.Node, before: fx.Node) -> tuple[str, float] | str:
    """A node's activation and slope, or why it is none."""
    module = _module(copy, node)
    kind = node.target if module is None else type(module)
    if not (node.args and node.args[0] is before) or kind not in RELU | LEAKY_RELU:
        return f"{node.name} follows it"
    if module is not None and _hooked(module):
        return f"{node.name} has hooks"
    if kind in RELU:
        return "relu", 0.0
    if module is not None:
        slope = module.negative_slope
    else:
        slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    if not isinstance(slope, (int, float)) or not slope >= 0.0:
        return f"the slope of {node.name} is {slope}"
    return "leaky_relu", float(slope)


def _between(chain: Chain) -> Iterator[fx.Node]:
    """The nodes from a batch norm to the end of its chain that are not of it."""
    node = chain.norm.next
    while node is not chain.end:
        if node is not chain.add:
            yield node
        node = node.next


def _writes(copy: nn.Module, node: fx.Node) -> bool:
    """Whether a node may change a tensor that it did not make."""
    if node.op in ("placeholder", "get_attr", "output"):
        return False
    module = _module(copy, node)
    if module is not None:
        known = type(module).__module__.startswith(("torch.nn.", "fastbn."))
        return not known or getattr(module, "inplace", False) or _hooked(module)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_function":
        home, *inner = (getattr(node.target, "__module__", None) or "").split(".")
        if home not in KNOWN or inner[:1] == ["_ops"]:  # functions of others, and operators
            return True
    in_place = name.endswith("_") and not name.endswith("__")
    of_operator = getattr(node.target, "__module__", "") == "_operator" and name.startswith("i")
    arguments = node.kwargs.get("inplace", False) or node.kwargs.get("out") is not None
    return in_place or of_operator or bool(arguments) or name in ("setitem", "__setitem__")


def _module(copy: nn.Module, node: fx.Node) -> nn.Module | None:
    """What a node calls, if that is a module."""
    return copy.get_submodule(str(node.target)) if node.op == "call_module" else None


def _hooked(module: nn.Module | None) -> bool:
    return any(getattr(module, name, None) for name in HOOKS)
