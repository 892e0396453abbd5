"""`python -m fastbn` refuses in one line, with 2, and looks at files before it measures."""

import os
import subprocess
import sys

import pytest
from process import as_root, command, python_path, run_python

from fastbn import _cli
from fastbn._cli import main, times
from fastbn._runtime import threads

BENCH = "bench", "--shape", "4,3,5,5"
REFUSALS = [
    ([], "no command was given, one of info, warmup, tune"),
    (["compile"], "invalid choice: 'compile'"),
    (["--jason"], "--jason"),
    (["info", "--jason"], "unrecognized arguments: --jason"),
    (["info", "--js"], "unrecognized arguments: --js"),
    (["doctor", "all\nof it"], "unrecognized arguments: all of it"),
    (["warmup", "--dtypes", "float32,float31"], "'float31' is not one of float16, bfloat16"),
    (["warmup", "--dtypes", ""], "'' is not one of"),
    (["warmup", "--layouts", "NHWC"], "'NHWC' is not one of channels_first, channels_last"),
    (["warmup", "--features", "gelu"], "'gelu' is not one of weights, residual, relu"),
    (["warmup", "--features", ""], "'' is not one of weights"),
    (["warmup", "--passes", "sideways"], "'sideways' is not one of forward, backward"),
    (["bench", "--shape", "32,x"], "'32,x' is not two or more positive lengths"),
    (["bench", "--shape", "32"], "'32' is not two or more positive lengths"),
    (["bench", "--shape", "32,0"], "'32,0' is not two or more positive lengths"),
    (["bench", "--shape", "9" * 5000 + ",2"], "is not two or more positive lengths"),
    (["bench", "--shape", "1," * 64 + "9"], "65 axes are more than the 64 that arrays may have"),
    (["bench", "--shape", "9999999,9999999"], "GB with the check of the results, where there are"),
    (["bench", "--shape", "2,3"], "(2, 3) has 2 values a channel, at least 3 are needed"),
    ([*BENCH, "--channel-axis", "4"], "--channel-axis: 4 is not an axis of (4, 3, 5, 5): from -4"),
    ([*BENCH, "--channel-axis", "-5"], "--channel-axis: -5 is not an axis"),
    ([*BENCH, "--threads", "99"], "--threads: 99 is not from 1 to 8 (NUMBA_NUM_THREADS)"),
    ([*BENCH, "--threads", "0"], "--threads: 0 is not from 1 to"),
    ([*BENCH, "--threads", "two"], "--threads: invalid int value: 'two'"),
    ([*BENCH, "--dtype", "int8"], "invalid choice: 'int8'"),
    *(
        ([*BENCH, "--seconds", text], f"{text!r} is not a positive number of seconds")
        for text in ("0", "-1", "nan", "inf", "soon")
    ),
    ([*BENCH, "--seconds", "1", "--quick"], "not allowed with argument --seconds"),
    ([*BENCH, "--json", "missing/x.json"], "--json: 'missing/x.json' cannot be written (No such"),
    ([*BENCH, "--json", "."], "--json: '.' cannot be written (Is a directory"),
    ([*BENCH, "--json", ""], "--json: '' cannot be written"),
    ([*BENCH, "--json", "new/"], "--json: 'new/' cannot be written ("),
    ([*BENCH, "--json", "x" * 5000], "xxx' cannot be written ("),
    ([*BENCH, "--json", "a\0b"], "cannot be written (embedded null byte"),
]


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_a_refusal_is_one_line(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "99" in arguments:
        monkeypatch.setattr(threads, "limits", lambda: {"NUMBA_NUM_THREADS": 8})
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    name = arguments[0] if arguments and arguments[0] in ("warmup", "bench") else ""
    assert line.startswith(f"python -m fastbn {name}".rstrip() + ": ")
    assert line.endswith("; see --help")
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["warmup", "--dtypes"], ["bench", "--dtype"]])
def test_bfloat16_needs_its_package(arguments, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(SystemExit):
        main([*arguments, "bfloat16"])
    assert "bfloat16 needs the package ml_dtypes" in capsys.readouterr().err


def test_a_picture_needs_matplotlib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        main([*BENCH, "--plot", "x.png"])
    assert stop.value.code == 2
    assert "a picture needs matplotlib: pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x", "x.gif", ".png", "missing/x.png"])
def test_a_picture_needs_a_file_of_its_kind(name, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*BENCH, "--plot", name])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--plot: {name!r}" in line


def test_a_picture_does_not_replace_the_figures(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*BENCH, "--json", "x.svg", "--plot", "./x.svg"])
    assert stop.value.code == 2
    assert "argument --plot: 'x.svg' is the file of --json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@as_root
def test_a_folder_that_cannot_be_entered_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    code = f"""
import os
from fastbn._cli import arguments
os.seteuid(65534)
try:
    arguments.file({str(closed / "x.json")!r})
except arguments.Wrong as error:
    print(error)
"""
    assert "cannot be written (Permission denied)" in run_python(code)


@pytest.fixture
def no_times(monkeypatch):
    """Measuring fails, as late as anything can."""

    def fail(*arguments):
        raise times.Failed("late")

    monkeypatch.setattr(_cli.bench, "measure", fail)


@pytest.mark.usefixtures("no_times", "keep_threads")
def test_files_are_as_before_when_measuring_fails(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("figures of yesterday")
    for file in (old, new):
        assert main([*BENCH, "--json", str(file)]) == 1
    assert capsys.readouterr().err == "python -m fastbn bench: late\n" * 2
    assert old.read_text() == "figures of yesterday"
    assert not new.exists()


@pytest.mark.skipif(os.name != "posix", reason="links need a right on other systems")
@pytest.mark.usefixtures("no_times", "keep_threads")
def test_a_link_that_leads_nowhere_still_does(tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to("new.json")
    assert main([*BENCH, "--json", str(link)]) == 1
    assert link.is_symlink()
    assert not link.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.usefixtures("no_times", "keep_threads")
def test_a_pipe_is_not_opened_before_there_is_something_to_say(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert main([*BENCH, "--json", str(tmp_path / "pipe")]) == 1


def of_info(monkeypatch, error):
    """What `info` exits with when its body raises an error."""

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(_cli.machine.json, "dumps", fail)
    return main(["info", "--json"])


def test_ctrl_c_ends_without_a_word(monkeypatch, capsys):
    assert of_info(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys):
    assert of_info(monkeypatch, OSError(28, "No space left on device")) == 1
    line = capsys.readouterr().err
    assert line == "python -m fastbn info: [Errno 28] No space left on device\n"


def test_an_error_of_our_own_keeps_its_traceback(monkeypatch):
    with pytest.raises(KeyError):
        of_info(monkeypatch, KeyError("x"))


UNFIT = [
    *(
        (name, {"NUMBA_NUM_THREADS": "0"}, "Numba cannot start: ValueError: Number of")
        for name in ("info", "verify", "warmup")
    ),
    *(
        (name, {"NUMBA_DISABLE_JIT": "1"}, "nothing is compiled with NUMBA_DISABLE_JIT=1")
        for name in ("tune", "warmup")
    ),
]


@pytest.mark.parametrize(("name", "settings", "words"), UNFIT)
def test_settings_that_a_command_cannot_work_with_are_one_line(name, settings, words):
    process = command(name, **settings)
    assert process.returncode == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"python -m fastbn {name}: {words}")


def test_letters_that_the_output_does_not_have_are_escaped(tmp_path):
    cache = str(tmp_path / "\u0142")
    process = command("info", NUMBA_CACHE_DIR=cache, PYTHONIOENCODING="ascii")
    assert process.returncode == 0, process.stderr
    assert f"{tmp_path}{os.sep}\\u0142{os.sep}fastbn" in process.stdout


@pytest.mark.skipif(os.name != "posix", reason="other systems say it in another way")
def test_a_reader_that_has_enough_is_no_error():
    code = [sys.executable, "-W", "error", "-m", "fastbn", "info", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": python_path()}
    with subprocess.Popen(code, **pipes, env=environment) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"], ["--version"]])
def test_help_is_no_error(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert out
    assert err == ""


def test_a_process_exits_with_it():
    process = command("bench", "--shape", "x")
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
