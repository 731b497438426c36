"""What of a server can be chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Key = Annotated[str, Field(pattern=r"^[!-~]+$")]
"""Something that a header can hold."""
TokenIds = Literal["cl100k_base", "model"]


class Options(BaseModel):
    """Every choice once, with its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_keys: tuple[Key, ...] = Field((), description="any of them opens the server; none: it is open", repr=False)
    default_kind: str = Field(
        "passage", description="what texts are when a request does not say; a corpus has more texts than queries"
    )
    token_ids: TokenIds = Field(
        "cl100k_base", description="whose ids come where token ids come: OpenAI's tokenizer, or the model's own"
    )
    latency_target: Annotated[float, Field(gt=0)] = Field(
        0.1, description="seconds that one micro-batch may take; whoever comes then has waited no longer"
    )
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="seconds from a read request to its answer")
    header_timeout: Annotated[float, Field(gt=0)] = Field(10, description="seconds for a request's head to arrive")
    body_timeout: Annotated[float, Field(gt=0)] = Field(30, description="seconds for a request's body to arrive")
    max_body: Annotated[int, Field(ge=1)] = Field(16 * 2**20, description="bytes of a request's body")
    max_texts: Annotated[int, Field(ge=1)] = Field(2048, description="of a request, as OpenAI has it")
    max_tokens: Annotated[int, Field(ge=1)] = Field(300_000, description="of a request, as OpenAI has it")
    max_waiting_tokens: Annotated[int, Field(ge=1)] = Field(
        500_000, description="of all requests that wait; more are refused with 503"
    )
