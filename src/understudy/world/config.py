"""How a world is learned."""

from pydantic import BaseModel, ConfigDict, Field


class WorldConfig(BaseModel):
    """How a world is learned. The defaults are the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: float = Field(default=0.9, gt=0.5, le=1.0, description="of a rule that overrides")
    versions: int = Field(default=8, ge=1, description="remembered versions of a thing")
    max_forms: int = Field(default=24, ge=1, description="text forms of a tool kept apart")
    max_rows: int = Field(default=1500, ge=50, description="results of a tool compared in full")
    lasting: bool | None = Field(
        default=None, description="whether state lasts between episodes; found out where it is None"
    )
