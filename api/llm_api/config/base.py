"""The base model and the keys beside it that say how it is loaded: quantization is a section of its own."""

from typing import Annotated

from pydantic import Field

from llm_api.config.scalars import MAX_NAME_LENGTH

BaseModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH, pattern=r"^\S(.*\S)?$")]
"""A hub's OWNER/NAME, a folder, or an s3:// folder."""
