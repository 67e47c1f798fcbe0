"""How far a process's peak memory rises with a table: ``python -m tests.support.data_memory FOLDER`` tells in bytes.

With an S3 endpoint as a second argument, the tables are read from its bucket ``data`` and not from the folder.

Rows are long and tokens few, so that a file that is held shows, and tokenizing takes no time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from llm_api.config import load_config
from llm_api.run import S3Settings
from llm_runner.data.prepare import prepare_data
from llm_runner.data.source import DataFile, DataFiles
from llm_runner.data.storedfile import StoredFile
from llm_runner.report.memory import peak_resident_bytes
from llm_runner.store.ranges import find_s3_file
from llm_runner.store.uri import S3Location
from llm_runner.train.course import epoch_order
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.repository import ROOT

FEW_ROWS, ROWS = 3_000, 50_000
WORD_LETTERS = 2_500
MOST_GROWTH_BYTES = 50_000_000
"""Of larger buffers, and of numbers kept for each row."""
CONFIG = load_config(
    {
        "base_model": "tiny",
        "input_features": [{"name": "question", "type": "text"}],
        "output_features": [{"name": "answer", "type": "text"}],
    }
)


def measure_growth(folder: Path, endpoint_url: str | None = None) -> dict[str, int]:
    """By format, in a process of its own."""
    command = [sys.executable, "-m", __name__, str(folder), *([] if endpoint_url is None else [endpoint_url])]
    path = os.pathsep.join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    growth: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return growth


def write(path: Path, rows: int) -> Path:
    """A row group is the whole file, and no row compresses."""
    words = ({"question": os.urandom(WORD_LETTERS // 2).hex(), "answer": f"a{row}"} for row in range(rows))
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in words)
    else:
        pq.write_table(pa.Table.from_pylist(list(words)), path, row_group_size=rows, compression="none")
    return path


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, the same for all."""
    tokenizer = Tokenizer(models.WordLevel({"<w>": 0, "</s>": 1}, unk_token="<w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<w>", eos_token="</s>")  # type: ignore[no-untyped-call]


def walk(table: StoredFile, work_path: Path) -> int:
    """Prepares and reads an epoch; gives the rows read."""
    data = prepare_data(
        CONFIG,
        word_tokenizer(),
        DataFiles(DataFile(table)),
        context_length=64,
        work_path=work_path,
        seed=1,
        warn=lambda _text: None,
    )
    order = epoch_order(len(data.train), 1, 0, shuffles=True)
    seen = (row for start in range(0, len(order), 100) for row in order[start : start + 100].tolist())
    assert all(len(data.train.example(row)) == 3 for row in seen)
    return data.counts.rows_read


def find(folder: Path, name: str, endpoint_url: str | None) -> StoredFile:
    if endpoint_url is None:
        return folder / name
    file = find_s3_file(S3Location("data", name), S3Settings(endpoint_url=endpoint_url, region="us-east-1"))
    assert file is not None
    return file


def main(folder: Path, endpoint_url: str | None = None) -> None:
    growth = {}
    for suffix in ("parquet", "jsonl"):
        few, many = (find(folder, f"{name}.{suffix}", endpoint_url) for name in ("few", "many"))
        assert walk(few, folder / "work") == FEW_ROWS
        before = peak_resident_bytes()
        assert walk(many, folder / "work") == ROWS
        growth[suffix] = peak_resident_bytes() - before
    sys.stdout.write(json.dumps(growth) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
