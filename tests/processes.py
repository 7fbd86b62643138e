"""Forks of the test that are processes of one run, as `torchrun` would start them."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

PATIENCE_S = 240.0


def in_processes(size: int, work: Callable[[], Any]) -> list[Any]:
    """What `work` returns in each of `size` processes, by rank: plain values, tensors as lists.

    Fails with the traceback of one that failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        process = context.Process(target=_work, args=(work, names, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    said = [pipe.recv() if pipe.poll(PATIENCE_S) else (True, "it waits for ever") for pipe in pipes]
    for process in processes:
        process.kill()
        process.join()
    failures = [text for failed, text in said if failed]
    assert not failures, "\n".join(failures)
    return [value for _, value in said]


def _work(work: Callable[[], Any], names: dict[str, Any], pipe: Connection) -> None:
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    try:
        pipe.send((False, work()))
    except BaseException:  # noqa: BLE001 - whatever it is, the test is told
        pipe.send((True, traceback.format_exc()))
    os._exit(0)  # no tidying up of what the parent made
