"""The rules of the house: who may import whom, records, short functions, a light import."""

import ast
import re
from pathlib import Path

import pytest
from process import run_python

import fastbn

PACKAGE = Path(fastbn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The ladder, from the bottom: a file imports only from lines above its own in this table. So a room
# knows only itself and the rooms before it, and files on one line do not know each other.
LADDER = [
    ["_version"],
    ["_runtime", "_runtime.errors", "_runtime.forks", "_runtime.bounds", "_runtime.pace"],
    ["_runtime.cache", "_runtime.neighbours"],
    ["_runtime.layer", "_runtime.caches", "_runtime.memory"],
    ["_runtime.threads"],
    ["_runtime.jit", "_runtime.info"],
    ["_kernels", "_kernels.abi"],
    ["_kernels.interpreted", "_kernels.schedule"],
    ["_kernels.simd"],
    ["_kernels.rows", "_kernels.columns", "_kernels.weights"],
    ["_kernels.channels"],
    ["_kernels.steps"],
    ["_kernels.passes"],
    ["_arrays", "_arrays.validate"],
    ["_arrays.layout"],
    ["_arrays.options"],
    ["_doubled"],
    ["stats"],
    ["functional", "population", "conventions"],
    ["split", "second", "variants"],
    ["layers", "cs231n"],
    ["fold"],
    ["__init__"],
    ["adapters", "adapters._records", "adapters.mpi", "adapters.torch._tensors"],
    ["adapters.dask._tasks", "adapters.dask._again", "adapters.torch._passes"],
    ["adapters.dask._arguments", "adapters.torch._operators"],
    ["adapters.dask._functions", "adapters.torch._direct", "adapters.torch._vmap"],
    ["adapters.dask._population", "adapters.torch._functional"],
    ["adapters.dask", "adapters.torch._sync"],
    ["adapters.sklearn", "adapters.torch._modules"],
    ["adapters.torch._fuse"],
    ["adapters.torch._convert"],
    ["adapters.torch"],
    ["_verify", "_tune"],
    ["_bench", "_bench.cases", "_bench.copies", "_bench.libraries", "_bench.measure"],
    ["_bench.numpy_batchnorm", "_bench.floor", "_bench.look", "_bench.in_jax", "_bench.in_torch"],
    ["_bench.seed", "_bench.in_compiled", "_bench.in_fastbn"],
    ["_bench.in_numpy"],
    ["_bench.timing"],
    ["_cli.arguments", "_cli.progress"],
    ["_cli.facts"],
    ["_cli.findings", "_cli.machine", "_cli.times", "_cli.warmup"],
    ["_cli.doctor", "_cli.picture"],
    ["_cli.bench"],
    ["_cli"],
    ["__main__"],
]
ROOMS = ("_runtime", "_kernels", "_arrays")  # and then what is public

PUBLIC = [
    "batchnorm_forward",
    "batchnorm_backward",
    "batchnorm_backward_alt",
    "spatial_batchnorm_forward",
    "spatial_batchnorm_backward",
    "batch_norm",
    "forward",
    "backward",
    "Saved",
    "normalize",
    "denormalize",
    "backward_sums",
    "backward_input",
    "double_backward",
    "GradSums",
    "Stats",
    "batch_stats",
    "merge_stats",
    "population_stats",
    "covariate_shift",
    "update_running_stats",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm",
    "fold_conv",
    "fold_linear",
    "set_num_threads",
    "get_num_threads",
    "threads",
    "config_info",
]


def place_of(path):
    """Where a file stands, as modules are named."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def name_of(path):
    """A file's name in the ladder: that of its room for the room's own file."""
    return place_of(path).removesuffix(".__init__")


def tree_of(name):
    """The syntax tree of a file of the ladder."""
    path = PACKAGE.joinpath(*name.split("."))
    return ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )


def imported(tree, place):
    """The files of the ladder that a file's source names in its imports, wherever they stand."""
    known = {line_name for line in LADDER for line_name in line}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # from where the file stands
                above = place.split(".")[: -node.level]
                base = ".".join([*above, *filter(None, [base])])
            elif base.split(".")[0] == "fastbn":
                base = base.partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                names.add(inner if inner in known else base or "__init__")
        elif isinstance(node, ast.Import):
            ours = [a.name for a in node.names if a.name.split(".")[0] == "fastbn"]
            names |= {name.partition(".")[2] or "__init__" for name in ours}
    return names


def functions(tree):
    """Every function of a file."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_file_is_on_the_ladder():
    assert sorted(name for line in LADDER for name in line) == sorted(map(name_of, FILES))


def test_rooms_stand_together_and_in_order():
    rooms = [name.split(".")[0] for line in LADDER[1:] for name in line]
    assert [room for room in dict.fromkeys(rooms) if room in ROOMS] == list(ROOMS)
    last = max(i for i, room in enumerate(rooms) if room in ROOMS)
    assert all(room in ROOMS for room in rooms[: last + 1])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_up_the_ladder(path):
    height = {name: i for i, line in enumerate(LADDER) for name in line}
    for name in imported(ast.parse(path.read_text()), place_of(path)):
        assert name in height, f"{name_of(path)} imports {name}, which is not on the ladder"
        assert height[name] < height[name_of(path)], f"{name_of(path)} imports {name}"


def test_an_import_of_a_room_above_would_be_seen():
    source = "from .. import functional\nfrom ..layers import BatchNorm\nimport fastbn._cli"
    found = imported(ast.parse(source), "_kernels.rows")
    assert found == {"functional", "layers", "_cli"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_one_sentence_what_belongs_there(room):
    text = ast.get_docstring(tree_of(room))
    assert re.fullmatch(r"[^.]{20,}\.", text)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short(path):
    for node in functions(ast.parse(path.read_text())):
        start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno - 1
        assert node.end_lineno - start <= 50, node.name


# Records are read by the names of their fields.
RECORDS = {"plan", "context", "step", "steps", "workspace", "words", "record"}


def constant_subscripts(tree):
    """Subscripts of a record by a number, a string or the name of a constant."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript):
            continue
        value, index = node.value, node.slice
        name = getattr(value, "id", getattr(value, "attr", ""))
        last = getattr(index, "id", getattr(index, "attr", ""))
        if name in RECORDS and (isinstance(index, ast.Constant) or last.isupper()):
            yield ast.unparse(node)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_record_is_subscripted_by_a_constant(path):
    assert list(constant_subscripts(ast.parse(path.read_text()))) == []


def test_a_subscript_by_a_constant_would_be_seen():
    source = "plan[3]; plan[_plan.ROOM]; self.context[X]; words['x']; shift[3]; plan[name]"
    assert len(list(constant_subscripts(ast.parse(source)))) == 4


def test_import_is_light():
    heavy = ("numpy", "numba", "llvmlite", "scipy", "platformdirs", "multiprocessing")
    code = f"import sys, fastbn; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_public_names_are_handed_out_and_listed():
    for name in PUBLIC:
        assert callable(getattr(fastbn, name))
        assert name in dir(fastbn)
    assert sorted(fastbn.__all__) == sorted(PUBLIC)
    with pytest.raises(AttributeError, match="no_such_name"):
        fastbn.no_such_name  # noqa: B018


def test_the_type_marker_is_shipped():
    assert (PACKAGE / "py.typed").exists()
