"""The demo: tunes the small model on examples/finetune.yaml, shows the same tickets answered before and after, and asks
the tuned model one of them over HTTP.

Training and serving are what a user would run, as a user would run them. The comparison uses nothing of this project,
only plain transformers and PEFT, so it shows what the stored adapter is worth elsewhere.
"""

import argparse
import json
import logging
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Any

import torch
import yaml
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

ROOT = Path(__file__).resolve().parent.parent
MANIFEST, SERVED = Path("examples/finetune.yaml"), Path("examples/inference.yaml")
TICKETS = Path("examples/data/support-tickets")
OUTPUT = Path("out")
FIELDS = ("category", "product", "urgency", "order")
SHOWN_ROWS = 4
BATCH_ROWS = 20
READY_SECONDS = 300
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Comparison:
    """Held-out rows and what the model made of them, in the same order."""

    rows: Sequence[dict[str, str]]
    before: Sequence[str]
    after: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    model_path = parser.parse_args().model
    console = Console()
    silence_libraries()
    started = time.monotonic()
    artifact_path = tune(console, model_path)
    comparison = compare(console, model_path, artifact_path)
    elapsed_seconds = time.monotonic() - started
    show_answers(console, comparison)
    show_scores(console, comparison)
    show_artifact(console, artifact_path, elapsed_seconds)
    with serve(console, model_path) as url:
        ask(console, url, comparison.rows[0])
    console.print("\nWithout --port, that command serves at http://127.0.0.1:8000.", highlight=False)


def silence_libraries() -> None:
    """Their hints about optional kernels and coming changes are for developers, not for who watches a demo."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    disable_progress_bar()


def tune(console: Console, model_path: Path) -> Path:
    """Validates and runs the manifest with this project's own commands; gives the artifact's folder."""
    spec = read_spec()
    artifact_path = OUTPUT / str(spec["output"]["volume"]["path"])
    # The point is to see it train: an earlier demo's result would end this one at once.
    shutil.rmtree(ROOT / artifact_path, ignore_errors=True)
    (ROOT / OUTPUT).mkdir(exist_ok=True)
    volumes = {"models": model_path.parent, "tickets": TICKETS, "artifacts": OUTPUT}
    call(console, "llm_api", "validate", str(MANIFEST))
    call(console, "llm_runner", "run", "-f", str(MANIFEST), *to_options(volumes))
    return artifact_path


def to_options(volumes: dict[str, Path]) -> list[str]:
    return [part for claim, folder in volumes.items() for part in ("--volume", f"{claim}={folder}")]


def call(console: Console, module: str, *arguments: str) -> None:
    result = subprocess.run(show_command(console, module, *arguments), cwd=ROOT, check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)


def show_command(console: Console, module: str, *arguments: str) -> list[str]:
    """What is shown, to be run by this very Python."""
    console.print(f"\n[bold]$ python -m {module} {' '.join(arguments)}[/bold]", soft_wrap=True, highlight=False)
    return [sys.executable, "-m", module, *arguments]


def read_spec() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((ROOT / MANIFEST).read_text())["spec"]
    return spec


def compare(console: Console, model_path: Path, artifact_path: Path) -> Comparison:
    """Answers every held-out ticket twice, greedily: by the base model, and by it with the adapter."""
    config = read_spec()["config"]
    rows = [json.loads(line) for line in (ROOT / TICKETS / "validation.jsonl").read_text().splitlines()]
    prompts = [config["prompt"]["template"].format(ticket=row["ticket"]) for row in rows]
    most_tokens = config["generation"]["max_new_tokens"]
    tokenizer = AutoTokenizer.from_pretrained(ROOT / artifact_path, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    with console.status(f"{len(rows)} held-out tickets, answered by the base model"):
        before = generate(model, tokenizer, prompts, most_tokens)
    model = PeftModel.from_pretrained(model, ROOT / artifact_path)
    with console.status(f"{len(rows)} held-out tickets, answered by the tuned model"):
        after = generate(model, tokenizer, prompts, most_tokens)
    return Comparison(rows, before, after)


def generate(model: Any, tokenizer: Any, prompts: Sequence[str], most_tokens: int) -> list[str]:
    """What each prompt is continued with, in the order given."""
    answers: list[str] = []
    for start in range(0, len(prompts), BATCH_ROWS):
        batch = tokenizer(list(prompts[start : start + BATCH_ROWS]), return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = model.generate(**batch, do_sample=False, max_new_tokens=most_tokens)
        answers += tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def parse_answer(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, wherever it starts: prose or a code fence around it costs nothing."""
    start = text.find("{")
    try:
        answer, _ = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
    except json.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None


def show_answers(console: Console, comparison: Comparison) -> None:
    table = Table(title="Held-out tickets, never trained on", show_lines=True, title_justify="left")
    for column in ("ticket", "before", "after"):
        table.add_column(column, ratio=1)
    shown = list(zip(comparison.rows, comparison.before, comparison.after, strict=True))[:SHOWN_ROWS]
    for row, before, after in shown:
        right = parse_answer(after) == json.loads(row["answer"])
        table.add_row(row["ticket"], one_line(before), f"[{'green' if right else 'yellow'}]{one_line(after)}")
    console.print("\n", table)


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("[", r"\[")


def show_scores(console: Console, comparison: Comparison) -> None:
    table = Table(title=f"Exact answers on {len(comparison.rows)} held-out tickets", title_justify="left")
    for column in ("", *FIELDS, "all four"):
        table.add_column(column, justify="right")
    table.add_row("before", *count_exact(comparison.rows, comparison.before))
    table.add_row("after", *count_exact(comparison.rows, comparison.after), style="green")
    console.print("\n", table)


def count_exact(rows: Sequence[dict[str, str]], texts: Sequence[str]) -> list[str]:
    """Share of rows whose field is exactly right, for each field and for all of them together."""
    wanted = [json.loads(row["answer"]) for row in rows]
    found = [parse_answer(text) or {} for text in texts]
    pairs = list(zip(wanted, found, strict=True))
    # A key that is missing is wrong, even where null is right.
    hits = [sum(field in answer and answer[field] == want[field] for want, answer in pairs) for field in FIELDS]
    hits.append(sum(want == answer for want, answer in pairs))
    return [f"{hit / len(rows):.0%}" for hit in hits]


def show_artifact(console: Console, artifact_path: Path, elapsed_seconds: float) -> None:
    metrics = json.loads((ROOT / artifact_path / "metrics.json").read_text())
    console.print("\n[bold]metrics.json[/bold]")
    console.print_json(data=metrics)
    plots = sorted(path.name for path in (ROOT / artifact_path).glob("*.png"))
    console.print(f"\nTraining and comparison took {elapsed_seconds:.0f} s.")
    console.print(f"Adapter, metrics and model card: [bold]{artifact_path}/[/bold]", highlight=False)
    for plot in plots:
        console.print(f"Plot of the loss: [bold]{artifact_path / plot}[/bold]", highlight=False)


@contextmanager
def serve(console: Console, model_path: Path) -> Iterator[str]:
    """The tuned model's address; the server is stopped in the end."""
    options = to_options({"models": model_path.parent, "artifacts": OUTPUT})
    port = find_free_port()
    files = ["-f", str(SERVED), "-f", str(MANIFEST)]
    command = show_command(console, "llm_runner", "run", *files, *options, "--port", str(port))
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(process, url)
            yield url
        finally:
            process.terminate()


def find_free_port() -> int:
    with create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Ends the demo as the server does where it ends by itself."""
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready(url):
        if process.poll() is not None:
            sys.exit(process.returncode)
        if time.monotonic() > deadline:
            sys.exit(f"the server was not ready within {READY_SECONDS} s")
        time.sleep(POLL_SECONDS)


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=READY_SECONDS):
            return True
    except urllib.error.URLError:
        return False


def ask(console: Console, url: str, row: dict[str, str]) -> None:
    """As any HTTP client would."""
    body = json.dumps({"rows": [{"ticket": row["ticket"]}]})
    console.print(f"\n[bold]$ curl {url}/v1/predict --json {shlex.quote(body)}[/bold]", soft_wrap=True, highlight=False)
    request = urllib.request.Request(f"{url}/v1/predict", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=READY_SECONDS) as response:
        answer = json.load(response)
    console.print_json(data=answer)
    right = parse_answer(answer["predictions"][0]["value"]) == json.loads(row["answer"])
    console.print("That is its known answer." if right else f"Its known answer is {row['answer']}", highlight=False)


if __name__ == "__main__":
    main()
