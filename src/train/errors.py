"""Errors of torch and of the machine that a conf causes, explained in terms of the conf."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from src.config import Config, TrainingConf
from src.errors import Stopped, UserError


@contextmanager
def errors_explained(config: TrainingConf) -> Iterator[None]:
    """Turn lack of memory, too small a batch, a lost process and a failed compilation into a UserError.

    Raises Stopped for a loader that was told to stop.
    """
    image = (f" at {config.image_size} px", " or image_size") if isinstance(config, Config) else ("", "")
    batch = f"a batch of {config.batch_size}{image[0]} does not fit"
    remedy = f"give a smaller batch_size (with accumulate, the same step){image[1]}"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{batch} the GPU's memory; {remedy}, or precision: fp16") from error
    except MemoryError as error:
        raise UserError(f"{batch} the machine's memory; {remedy}, or fewer workers") from error
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"a process gets one slice of a batch of {config.batch_size}{image[0]}, too few for batch norm; "
            f"give a larger batch_size{image[1]}"
        ) from error
    except RuntimeError as error:
        said = str(error)
        if "DefaultCPUAllocator" in said:
            raise UserError(f"{batch} the machine's memory; {remedy}") from error
        # SIGTERM ended the worker before it could block it, by the default handler or by that of src.errors
        if re.search(r"DataLoader worker .*(signal: Terminated|exit code 143)", said):
            raise Stopped("the same command goes on after the last save") from error
        if died := re.search(r"DataLoader worker .*(signal: \w+|exited unexpectedly)", said):
            raise UserError(
                f"a process that loads slices was ended ({died[1]}), as happens where memory runs out; give fewer "
                "workers or a smaller batch_size, and in a container more shared memory (Docker: shm-size)"
            ) from error
        if re.search(r"</torch_|shared memory file|shm_open", said):
            raise UserError(
                "the shared memory (/dev/shm) by which loader processes hand over batches is full; set workers: 0, or "
                "give the container more of it (Docker: shm-size, 64 MB by default)"
            ) from error
        if re.search(r"ancdata|Too many open files", said):
            raise UserError(
                "too few file descriptors for loader processes; raise the limit (ulimit -n 65536), or set workers: 0"
            ) from error
        if re.search(r"Connection (closed|reset) by peer|Broken pipe", said):
            raise UserError(
                "another process of this run has ended, and says why where it ran; the same command goes on after the "
                "last save"
            ) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            what = said.strip().splitlines()[0]
            raise UserError(f"torch.compile cannot compile this network here ({what}); set compile: false") from error
        raise
