"""The house rules: one ladder of imports, small files, short functions, a light `import fastbn`."""

import ast
from pathlib import Path

import pytest
from process import run_python

import fastbn

PACKAGE = Path(fastbn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports only from lines above its own; files on one line do not know each other.
LADDER = [
    ["_version", "_forks", "_cache", "_vectors", "_validate", "_workspace", "_memory"],
    ["_threads", "_interpreted", "_plan"],
    ["_intrinsics"],
    ["_jit", "_config"],
    ["_runs"],
    ["_rows", "_columns"],
    ["_channels"],
    ["_steps"],
    ["_passes"],
    ["_layout", "_running"],
    ["stats"],
    ["_call"],
    ["functional", "gradients"],
    ["layers", "cs231n"],
    ["ranked"],
    ["__init__"],
    ["_bench"],
    ["__main__"],
]

PUBLIC = [
    "batchnorm_forward",
    "batchnorm_backward",
    "batchnorm_backward_alt",
    "spatial_batchnorm_forward",
    "spatial_batchnorm_backward",
    "batch_norm",
    "forward",
    "backward",
    "normalize",
    "Stats",
    "batch_stats",
    "merge_stats",
    "update_running_stats",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "set_num_threads",
    "get_num_threads",
    "threads",
    "config_info",
]


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(tree):
    """The fastbn modules that a module's source names in its imports, wherever they stand."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (
            node.level or node.module.split(".")[0] == "fastbn"
        ):
            base = (node.module or "").removeprefix("fastbn").strip(".")
            names |= {base} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            ours = [a.name for a in node.names if a.name.split(".")[0] == "fastbn"]
            names |= {name.partition(".")[2] or "__init__" for name in ours}
    return names


def test_every_file_is_on_the_ladder():
    assert sorted(name for line in LADDER for name in line) == sorted(map(name_of, FILES))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_up_the_ladder(path):
    height = {name: i for i, line in enumerate(LADDER) for name in line}
    for name in imported(ast.parse(path.read_text())):
        assert name in height, f"{name_of(path)} imports {name}, which is not on the ladder"
        assert height[name] < height[name_of(path)], f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno - 1
            assert node.end_lineno - start <= 50, node.name


def test_import_is_light():
    code = (
        "import sys, fastbn; print([m for m in ('numba', 'llvmlite', 'scipy') if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_public_names_are_handed_out_and_listed():
    for name in PUBLIC:
        assert callable(getattr(fastbn, name))
        assert name in dir(fastbn)
    assert set(PUBLIC) <= set(fastbn.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        fastbn.no_such_name  # noqa: B018


def test_the_type_marker_is_shipped():
    assert (PACKAGE / "py.typed").exists()
