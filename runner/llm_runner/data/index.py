"""The vectors of the rows that prompts may show, kept beside the rows under the name that the config gives them.

Searches nothing and makes no vectors but to check that those stored are the model's.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from llm_api.config.prompt import Retrieval
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llm_runner.data.pool import Pool
from llm_runner.data.semantic import Embed, embed_rows
from llm_runner.errors import ConfigInvalid

INDEX_FOLDER = "examples"
DEFAULT_NAME = "index"
MOST_NAME_BYTES = 200
VECTORS = "embeddings"
CHECKED_ROWS = 4
MOST_DISTANCE = 0.1
"""Of a vector made anew from that stored: machines differ by rounding, models by far more."""


def save_index(vectors: Tensor, retrieval: Retrieval, folder: Path) -> None:
    path = index_path(retrieval, folder)
    path.parent.mkdir(exist_ok=True)
    save_file({VECTORS: vectors.contiguous()}, path, metadata={"model_name": str(retrieval.model_name)})


def load_index(retrieval: Retrieval, folder: Path, pool: Pool, columns: Sequence[str], embed: Embed) -> Tensor:
    """Raises ConfigInvalid where there is none of that name, or one that isn't of these rows and this model."""
    path = index_path(retrieval, folder)
    if not path.is_file():
        there = ", ".join(sorted(repr(unquote(file.stem)) for file in path.parent.glob("*.safetensors")))
        raise ConfigInvalid(
            f"prompt.retrieval.index_name: {folder} has no index {unquote(path.stem)!r}; "
            + (f"there is {there}" if there else "fine-tune with `retrieval: {type: semantic}` to get one")
        )
    try:
        with safe_open(path, framework="pt") as file:
            vectors: Tensor = file.get_tensor(VECTORS)
            made_by = (file.metadata() or {}).get("model_name")
    except (SafetensorError, OSError) as error:
        raise ConfigInvalid(f"prompt.retrieval: {path} is damaged ({error}); store the artifact again") from error
    if vectors.ndim != 2 or len(vectors) != len(pool.rows):
        raise ConfigInvalid(
            f"prompt.retrieval: {path} holds vectors of the shape {tuple(vectors.shape)} and not one for each of the "
            f"{len(pool.rows)} rows that are kept; store the artifact again"
        )
    _check_same_model(vectors, pool, columns, embed, retrieval, made_by)
    return vectors


def index_path(retrieval: Retrieval, folder: Path) -> Path:
    """Any name is a file of that folder: what a path can't hold is written as in a web address."""
    name = DEFAULT_NAME if retrieval.index_name is None else retrieval.index_name
    quoted = quote(name, safe=" ")
    if len(quoted) > MOST_NAME_BYTES:
        quoted = hashlib.sha256(name.encode()).hexdigest()
    return folder / INDEX_FOLDER / f"{quoted}.safetensors"


def _check_same_model(
    vectors: Tensor, pool: Pool, columns: Sequence[str], embed: Embed, retrieval: Retrieval, made_by: str | None
) -> None:
    anew = embed_rows(pool.rows[:CHECKED_ROWS], columns, embed)
    stored = vectors[:CHECKED_ROWS]
    if anew.shape != stored.shape or not (anew - stored).norm(dim=-1).max() <= MOST_DISTANCE:
        raise ConfigInvalid(
            f"prompt.retrieval.model_name: {retrieval.model_name} makes other vectors of the rows that are kept than "
            f"stand in the index, which {made_by} made of the prompt's columns then; name that model and those columns"
        )
