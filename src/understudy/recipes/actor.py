"""A policy that is being trained, as it acts: in the embedded engine, always its newest version."""

from dataclasses import replace
from typing import Protocol

from understudy.core.types import ModelRef, Policy, Sampling
from understudy.engine.torch_engine import TorchEngine
from understudy.recipes.learner import Learner


class Acting(Protocol):
    """A policy in training, by whatever engine plays it."""

    @property
    def policy(self) -> Policy: ...

    @property
    def greedy(self) -> Policy: ...

    async def deliver(self, version: int) -> None: ...


class Actor:
    """`policy` samples from the version that was delivered last; `greedy` takes its likeliest
    tokens. What is in flight goes on with the version that it began with."""

    def __init__(self, learner: Learner, engine: TorchEngine, sampling: Sampling) -> None:
        self.learner, self.engine = learner, engine
        self.policy = Policy("rehearsed", ModelRef(learner.base.name, "rehearsed"), None, sampling)

    async def deliver(self, version: int) -> None:
        """The learner as it is now, under this version's number. Not while the trainer steps."""
        model = replace(self.policy.model, version=version)
        self.engine.load_weights(model, self.learner.tensors(), self.learner.lora)
        self.policy = replace(self.policy, model=model)

    @property
    def greedy(self) -> Policy:
        return replace(self.policy, sampling=replace(self.policy.sampling, temperature=0.0))
