"""What a study fixes of a DySI model: its form, its sizes, or a pre-trained network."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from naslab.search_spaces.data.text import BYTES, FIRST_SENTINEL
from naslab.search_spaces.options import Network, Options
from naslab.search_spaces.parameters import When

FROM_SCRATCH = When("pretrained", (None,))


class DySIOptions(Options):
    """What a study fixes."""

    form: Literal["encoder_decoder", "decoder"] = "encoder_decoder"
    """T5's blocks, or GPT-2's, which read the source before the target."""
    pretrained: Annotated[str | None, Network()] = None
    """A network of transformers by name or folder, which brings its sizes and its tokenizer."""
    source_tokens: int = Field(64, ge=1, le=2**14)
    """Longer sources are cut."""
    target_tokens: int = Field(64, ge=2, le=2**14)
    """With the end token; longer targets are cut and have none."""
    vocabulary: Annotated[int, FROM_SCRATCH] = Field(1024, ge=FIRST_SENTINEL + BYTES, le=2**20)
    layers: Annotated[int, FROM_SCRATCH] = Field(2, ge=1, le=1000)
    """Of the encoder, and as many of the decoder."""
    width: Annotated[int, FROM_SCRATCH] = Field(64, ge=1, le=2**14)
    heads: Annotated[int, FROM_SCRATCH] = Field(4, ge=1, le=2**14)
    hidden: Annotated[int, FROM_SCRATCH] = Field(176, ge=1, le=2**16)
    """Of the feed-forward."""
    dropout: Annotated[float, FROM_SCRATCH] = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise PydanticCustomError(
                "value_error",
                "{error}",
                {"option": "width", "error": f"{self.width} is not a multiple of heads {self.heads}"},
            )
        return self
