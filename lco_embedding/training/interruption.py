"""Ctrl-C and SIGTERM: the step is finished, a checkpoint saved, and the process ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback
from transformers import logging as transformers_logging

logger = transformers_logging.get_logger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal.

    Args:
        number: The signal.
        state: What is saved, and how to go on.
    """

    def __init__(self, number: int, state: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {state}")
        self.signal = number


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """On Ctrl-C, or SIGTERM as schedulers send it, finishes the step and saves a checkpoint.

    A second Ctrl-C interrupts at once. With several processes all stop after the same step, whichever of them was
    interrupted, and when. The callback of transformers for SIGTERM (`enable_jit_checkpoint`) waits some seconds first,
    knows nothing of Ctrl-C nor of other processes, and ends as if the run was done.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.step = 0
        self._received = 0
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for signals in a block; only the main thread can.

        Raises:
            Interrupted: At the end of the block, after a signal.
        """
        with ExitStack() as stack:
            try:
                for number in SIGNALS:
                    stack.callback(signal.signal, number, signal.signal(number, self._receive))
            except ValueError:
                pass  # Not the main thread.
            yield
            if self.signal:
                go_on = "to go on, repeat the command with --resume_from_checkpoint last"
                raise Interrupted(self.signal, f"after step {self.step}, whose checkpoint is saved; {go_on}")
            if self._received:
                raise Interrupted(self._received, "after the last step; what was trained is saved")

    def _receive(self, number: int, _: Any) -> None:
        if os.getpid() != self._process:
            return  # A worker that reads data; it ends with its parent.
        if not self._received:
            self._received = number
            logger.warning(
                f"{signal.Signals(number).name}: the step is finished and a checkpoint saved. Ctrl-C stops at once."
            )
        elif number == signal.SIGINT:
            # Of SIGTERM a scheduler and a launcher may each send one.
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end of training."""
        received = self._received
        if args.world_size > 1:
            # A process that stopped alone would leave the others waiting for its gradients.
            flag = torch.tensor(received, device=args.device)
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            received = int(flag.item())
        if received:
            self.signal, self.step = received, state.global_step
            control.should_save = control.should_training_stop = True
            # The checkpoint first: there may be seconds left. But which one is best depends on every evaluation, unless
            # that decides whether a checkpoint is saved at all.
            if not args.load_best_model_at_end or args.save_strategy == "best":
                control.should_evaluate = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do nothing more at the end of an epoch that was cut short."""
        if self.signal and not (args.load_best_model_at_end and float(state.epoch).is_integer()):
            control.should_save = control.should_evaluate = False
