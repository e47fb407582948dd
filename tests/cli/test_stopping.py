"""Killed, interrupted, out of disk: nothing is lost, nothing is half-written, and a resumed run is the same run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = '''
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import xarray as xr

import mechlist.runner.journal as journal
from mechlist import Experiment, register

journal.FLUSH_SECONDS = 0.0


@register("slow")
@dataclass(frozen=True, kw_only=True)
class Slow(Experiment):
    """Eight passes, each slow enough to be stopped in."""

    def run(self, runner):
        generator = runner.generator("slow")
        prompts = [torch.randint(0, 512, (20,), generator=generator) for _ in range(8)]

        def sum_up(batch):
            with Path("batches.txt").open("a") as file:
                file.write("x")
            time.sleep(0.4)
            return {"mean": batch.next_tokens().log_prob.nanmean(dim=1)}

        return xr.Dataset({"mean": ("prompt", [runner.map([p], sum_up)["mean"].item() for p in prompts])})

    def figures(self, results):
        return {}
'''

COMMAND = [sys.executable, "-m", "mechlist.cli.main", "run", "slow", "--device", "cpu", "--out"]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=where, env=environment(), capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the slow experiment and its result when nothing stops it."""
    where = tmp_path_factory.mktemp("stopping")
    (where / "slow.py").write_text(SLOW)
    done = run(where, "whole")
    assert done.returncode == 0, done.stderr
    return where


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_bits(folder, how):
    out = folder / how.name
    (folder / "batches.txt").unlink(missing_ok=True)
    process = subprocess.Popen([*COMMAND, str(out)], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("partial/*/*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    assert not (out / "results.nc").exists()
    status = json.loads((out / "run.json").read_text())["status"]
    if how is signal.SIGKILL:
        assert status == "running"
    else:
        assert process.returncode == 1
        assert status == "interrupted"
        assert "Traceback" not in error
        goes_on = f"mechlist run slow --device cpu --out {out} --resume goes on from there."
        assert error.strip().splitlines() == [f"mechlist: stopped; what was done is saved, and {goes_on}"]
    kept = len(list(out.glob("partial/*/*.safetensors")))
    before = len((folder / "batches.txt").read_text())
    resumed = run(folder, str(out), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    batches = len((folder / "batches.txt").read_text()) - before
    assert batches == 8 - kept
    assert (out / "results.nc").read_bytes() == (folder / "whole" / "results.nc").read_bytes()
    assert not (out / "partial").exists()
    assert not list(out.glob("**/*.part"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk can be mounted only with the right to")
    try:
        failed = run(folder, str(disk / "out"))
        assert failed.returncode == 1
        assert failed.stderr.startswith("mechlist: The disk is full")
        assert len(failed.stderr.strip().splitlines()) == 1
        assert not list(disk.glob("**/*.part"))
        for file in disk.glob("**/*.json"):
            json.loads(file.read_text())
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        resumed = run(folder, str(disk / "out"), "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert (disk / "out" / "results.nc").read_bytes() == (folder / "whole" / "results.nc").read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=False)
