"""Processes that need no seconds for imports: forked where torch, transformers and the command are there already."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import anyoptim.cli.app


def new_process(function: Callable[..., None], *args: Any) -> BaseProcess:
    """Start a function in a process that shares nothing with this one but what was imported."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["runs", "processes"])
    process = context.Process(target=function, args=args)
    # the server, which the first call starts, does not get sys.path otherwise
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        process.start()
    return process


def in_new_process(function: Callable[..., None], *args: Any) -> int:
    """Run a function to its end in a process of its own; its exit code, negative for a signal."""
    process = new_process(function, *args)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def new_python(program: str, *, path: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python that has imported nothing yet, with a folder of plug-ins on its path."""
    prefix = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    done = subprocess.run([sys.executable, "-c", prefix + program], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def command(
    *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run ``anyoptim`` as a person does, but for its imports."""
    given = [*map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        process = new_process(_command, given, streams, cwd or Path.cwd(), {**os.environ, **(env or {})})
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(given, timeout, *(each.read_bytes() for each in streams))
        return subprocess.CompletedProcess(given, process.exitcode or 0, *(each.read_text() for each in streams))


def printed(*words: str | Path, code: int = 0) -> str:
    """What ``anyoptim`` prints; on stderr, where it is to fail."""
    done = command(*words)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def _command(words: list[str], streams: tuple[Path, Path], cwd: Path, environment: dict[str, str]) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore it
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["anyoptim", *words]
    # as Python does for the installed command
    sys.path[:0] = [
        str(Path(sys.executable).parent),
        *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    anyoptim.cli.app.main()
