"""The same Dask array with keys of its own, so that Dask computes a chunk twice and holds none.

A pass over statistics and a pass over outputs read one array. With equal keys, Dask would hold all
chunks of the first pass for the second; and without an order between them, begin the second one
early. `dask.graph_manipulation.bind` is made for both, but in Dask 2024.12 to 2026.8 it leaves
references in layers of `Task` objects (`rechunk`, `concatenate`, slices) unchanged.
"""

from collections.abc import Hashable, Iterable

import dask.array as da
from dask._task_spec import Alias, Task, TaskRef, convert_legacy_graph
from dask.base import tokenize
from dask.blockwise import Blockwise, blockwise_token
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

_AGAIN, _AFTER = "-again-", "fastbn-after-"
_TASKS = Task, Alias, tuple, list, dict, str
_P2P = "rechunk-p2p-"  # of distributed, whose workers exchange chunks outside of the graph


def again(
    x: da.Array, seed: Hashable, results: tuple[str, ...], after: da.Array | None = None
) -> da.Array:
    """An array that is equal to `x`, and computed apart from it, and `after` another one.

    What lies in memory is shared: NumPy arrays and persisted chunks. So are layers whose names
    start with one of `results`, which are small and dear, and results of a p2p rechunk.
    """
    graph = x.dask
    moved, shared = _split(graph, x.name, results)
    if x.name not in moved:
        return x
    keys = {key for name in moved for key in graph.layers[name].get_output_keys()}
    kept = set().union(*(graph.layers[name].get_output_keys() for name in shared))
    kept |= {key for name in moved for key in _futures(graph.layers[name])}
    known, keys = keys | kept, keys - kept  # layers of optimized graphs may repeat others' keys
    names = _new_names({*map(_name, keys), *moved}, f"{_AGAIN}{tokenize(seed)}")
    layers, dependencies = _barrier(after) if after is not None else ({}, {})
    barrier = next(iter(layers), None)
    copies = {name: names[name] for name in moved}
    for name in moved:
        needs = set(graph.dependencies[name])
        layer, bound = _renamed(graph.layers[name], needs, keys, known, names, barrier)
        layers[names[name]] = layer
        dependencies[names[name]] = {copies.get(n, n) for n in needs}
        if bound:
            dependencies[names[name]].add(barrier)
    for name in _above(graph, shared):
        layers[name], dependencies[name] = graph.layers[name], graph.dependencies[name]
    made = HighLevelGraph(layers, dependencies)
    return da.Array(made, names[x.name], x.chunks, meta=x._meta)


def _barrier(after: da.Array) -> tuple[dict, dict]:
    """Layers and dependencies that end in a task, of the first layer's name, behind an array."""
    name = f"{_AFTER}{after.name}"
    task = Task(name, _nothing, *(TaskRef(key) for key in flatten(after.__dask_keys__())))
    layers = {name: MaterializedLayer({name: task})} | dict(after.dask.layers)
    return layers, {name: {after.name}} | dict(after.dask.dependencies)


def _nothing(*results) -> None:
    """What a barrier gives."""


def _first(value, barrier):
    """A value that is computed behind a barrier."""
    return value


def _split(graph: HighLevelGraph, name: str, results) -> tuple[list[str], list[str]]:
    """The layers that are computed again, and those beneath them that are not."""
    moved: dict[str, None] = {}
    shared: dict[str, None] = {}
    todo = [name]
    while todo:
        name = todo.pop()
        if name in moved or name in shared:
            continue
        data = _is_data(graph.layers[name], graph.dependencies[name])
        if data or name.startswith((*results, _AFTER, _P2P)):
            shared[name] = None
        else:
            moved[name] = None
            todo += sorted(graph.dependencies[name])
    return list(moved), list(shared)


def _is_data(layer: Layer, dependencies) -> bool:
    """Whether a layer holds arrays, or futures of arrays, and no tasks."""
    if dependencies or isinstance(layer, Blockwise):
        return False
    return not any(isinstance(value, _TASKS) for value in layer.values())


def _futures(layer: Layer) -> dict:
    """Futures of a cluster that lie beside tasks: they are references of a kind of their own."""
    if not isinstance(layer, MaterializedLayer):
        return {}
    pairs = layer.items()
    return {k: v for k, v in pairs if isinstance(v, TaskRef) and type(v) is not TaskRef}


def _above(graph: HighLevelGraph, names: Iterable[str]) -> set[str]:
    """Layers and all that they need."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += graph.dependencies[name]
    return found


def _name(key) -> str:
    return key[0] if isinstance(key, tuple) else key


def _new_names(names: set[str], end: str) -> dict[str, str]:
    """Names with another end: what is computed again of a copy and of `x` is one thing.

    Not so in an optimized graph, one layer of several passes: each waits for the one before it.
    """
    passes = any(name.startswith(_AFTER) for name in names)
    return {name: (name if passes else name.split(_AGAIN)[0]) + end for name in names}


def _renamed(
    layer: Layer, needs: set, keys: set, known: set, names: dict, barrier
) -> tuple[Layer, bool]:
    """A layer whose keys, and references to keys, have other names; whether a barrier is one."""
    if isinstance(layer, Blockwise) and needs <= {n for n, _ in layer.indices if type(n) is str}:
        return _renamed_blockwise(layer, names, barrier)

    def new(key):
        return (names[key[0]], *key[1:]) if isinstance(key, tuple) else names[key]

    tasks, bound = dict(_futures(layer)), False
    for key, task in convert_legacy_graph(dict(layer), known).items():
        if key not in keys:
            tasks.setdefault(key, task)
            continue
        references = {old: new(old) for old in task.dependencies if old in keys}
        if isinstance(task, Alias):  # `substitute` would keep its key, where it keeps its target
            task = Alias(new(key), references.get(task.target, task.target))
        else:
            task = task.substitute(references, key=new(key))
        if barrier is not None and not references and isinstance(task, Task):
            task, bound = Task(new(key), _first, task, TaskRef(barrier)), True
        tasks[new(key)] = task
    return MaterializedLayer(tasks, annotations=layer.annotations), bound


def _renamed_blockwise(layer: Blockwise, names: dict, barrier) -> tuple[Layer, bool]:
    """`_renamed` without making tasks; as `Blockwise.clone` does, but for the names."""
    of_names = [isinstance(name, str) and name in names for name, _ in layer.indices]
    pairs = zip(layer.indices, of_names, strict=True)
    indices = [(names[name] if ours else name, index) for (name, index), ours in pairs]
    bound = barrier is not None and not any(of_names)
    output = names[layer.output]
    if bound:
        task = Task(output, _first, layer.task, TaskRef(blockwise_token(len(indices))))
        indices.append((TaskRef(barrier), None))
    else:
        task = layer.task.substitute({}, key=output)
    return Blockwise(
        output=output,
        output_indices=layer.output_indices,
        task=task,
        indices=indices,
        numblocks={names.get(name, name): n for name, n in layer.numblocks.items()},
        concatenate=layer.concatenate,
        new_axes=layer.new_axes,
        output_blocks=layer.output_blocks,
        annotations=layer.annotations,
        io_deps=layer.io_deps,
    ), bound
