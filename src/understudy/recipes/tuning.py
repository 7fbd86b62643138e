"""What a recipe trains of a model: an adapter on its linear layers, or every parameter."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from understudy.recipes.computing import Computing
from understudy.recipes.learner import Learner, Lora, Tune, make_learner


class Tuned(Computing):
    """`tune=full` is of a base alone: what it begins with is named as `base`."""

    base: str = "tiny"  # or a folder of a Hugging Face model
    start: str | None = None  # an adapter folder to go on from
    tune: Tune = "lora"
    lora: Lora = Lora()
    seed: int = 0

    @model_validator(mode="after")
    def _begins_with_an_adapter_or_a_base(self) -> Self:
        if self.tune == "full" and self.start is not None:
            raise ValueError("tune=full starts from a base: name it as base=FOLDER, and no start")
        return self

    @property
    def start_folder(self) -> Path | None:
        return Path(self.start) if self.start else None

    def learner(self, renderer: str | None = None) -> Learner:
        """What these options say is trained, loaded; raises what `make_learner` does."""
        return make_learner(
            self.base, self.lora, self.seed, self.start_folder, self.tune, renderer, self
        )
