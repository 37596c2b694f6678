"""What all that is read from files has in common: an unknown field is refused, and nothing changes afterwards."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A model without unknown fields whose fields cannot be set again."""

    model_config = ConfigDict(extra="forbid", frozen=True)
