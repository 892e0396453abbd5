"""What bounds the default number of threads: control groups, and OMP_NUM_THREADS."""

import math

import pytest

from fastbn._runtime import bounds


def groups(tmp_path, membership, files):
    """A process's memberships, and the files of its control groups, as the system shows them."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text(membership)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return bounds._cgroup_quota(root, own)


V1 = "12:pids:/a\n4:cpu,cpuacct:/a/b\n1:name=systemd:/x\n"
QUOTAS = {
    "no groups": ("", {}, math.inf),
    "version 2, a container": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
    "version 2, own group": (
        "0::/user.slice/job.scope\n",
        {"user.slice/job.scope/cpu.max": "300000 100000\n", "user.slice/cpu.max": "max 100000\n"},
        3,
    ),
    "version 2, a group above": (
        "0::/user.slice/job.scope\n",
        {"user.slice/job.scope/cpu.max": "max 100000\n", "user.slice/cpu.max": "200000 100000\n"},
        2,
    ),
    "version 2, another's group": ("0::/a\n", {"b/cpu.max": "100000 100000\n"}, math.inf),
    "version 2, outside of what is shown": ("0::/../x\n", {"cpu.max": "200000 100000\n"}, 2),
    "version 1, own group": (
        V1,
        {"cpu/a/b/cpu.cfs_quota_us": "50000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "version 1, a group above": (
        V1,
        {"cpu/a/cpu.cfs_quota_us": "400000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "version 1, a container": (
        V1,
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "version 1, no limit": (
        V1,
        {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"},
        math.inf,
    ),
    "nonsense": ("0::/\nx\n", {"cpu.max": "much\n"}, math.inf),
    "a period of 0": ("0::/\n", {"cpu.max": "100 0\n"}, math.inf),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_cgroup_quota(tmp_path, name):
    membership, files, expected = QUOTAS[name]
    assert groups(tmp_path, membership, files) == expected


def test_without_proc_the_root_group_counts(tmp_path):
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert bounds._cgroup_quota(tmp_path, tmp_path / "none") == 2


@pytest.mark.parametrize(
    ("text", "limit"), [("2", 2), ("3,2", 3), (" 1 ", 1), ("0", None), ("x", None)]
)
def test_omp_num_threads(monkeypatch, text, limit):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert bounds.found().get("OMP_NUM_THREADS") == limit


def test_a_quota_is_rounded_up_and_decides(monkeypatch):
    monkeypatch.setattr(bounds, "_cgroup_quota", lambda: 0.4)
    assert bounds.found()["cgroup quota"] == 1
