"""What a recipe trains of a model: an adapter on its linear layers, or every parameter."""

from typing import Self

from pydantic import model_validator

from understudy.recipes.computing import Computing
from understudy.recipes.learner import Lora, Tune


class Tuned(Computing):
    """`tune=full` is of a base alone: what it begins with is named as `base`."""

    start: str | None = None  # an adapter folder to go on from
    tune: Tune = "lora"
    lora: Lora = Lora()

    @model_validator(mode="after")
    def _begins_with_an_adapter_or_a_base(self) -> Self:
        if self.tune == "full" and self.start is not None:
            raise ValueError("tune=full starts from a base: name it as base=FOLDER, and no start")
        return self
