"""Options that several commands of the command line share."""

import argparse
from pathlib import Path

from llm_runner.local.options import SERVED_HOST, SERVED_PORT
from llm_runner.report.outcome import DEFAULT_TERMINATION_LOG


def add_upload_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("artifact", metavar="ARTIFACT", help="the folder or s3:// address that a fine-tune stored to")
    command.add_argument("--repo", required=True, metavar="ORG/NAME", help="made if it isn't there")
    command.add_argument("--private", action="store_true", help="make it private, where it is made")
    command.add_argument("--merged", action="store_true", help="merge an adapter into its base model first")


def add_manifest_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-f",
        "--filename",
        dest="manifests",
        type=Path,
        action="append",
        required=True,
        metavar="MANIFEST",
        help="holds what is run; given again: a file that holds what this one refers to",
    )
    command.add_argument("--name", help="which resource, where the manifest holds several: NAME or KIND/NAME")
    command.add_argument(
        "--volume",
        dest="volumes",
        type=parse_volume,
        action="append",
        default=[],
        metavar="CLAIM=DIR",
        help="folder that stands for a volume's claim; may be given several times",
    )
    command.add_argument("--output-dir", type=Path, metavar="DIR", help="store here instead of where the manifest says")


def add_inference_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model-dir", type=Path, metavar="DIR", help="the tuned model that answers an LLMInference")
    command.add_argument("--host", help=f"where an LLMInference is served; default: {SERVED_HOST}")
    command.add_argument("--port", type=int, metavar="N", help=f"its port; default: {SERVED_PORT}")
    command.add_argument("--api-key-file", type=Path, metavar="FILE", help="holds the key that its requests must carry")


def add_estimate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="on what; default: cuda")
    command.add_argument(
        "--longest-row", type=int, metavar="TOKENS", help="of the data; default: what the config's limits allow"
    )
    command.add_argument("--model-dir", type=Path, metavar="DIR", help="the tuned model that answers an LLMInference")


def add_common_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--work-dir", type=Path, metavar="DIR", help="scratch folder; default: one that is deleted")
    command.add_argument(
        "--termination-log",
        type=Path,
        metavar="PATH",
        help=f"where the outcome is written; default: {DEFAULT_TERMINATION_LOG}, if it is there",
    )


def parse_volume(text: str) -> tuple[str, Path]:
    claim, separator, folder = text.partition("=")
    if not claim or not separator or not folder:
        raise argparse.ArgumentTypeError(f"{text!r}: write CLAIM=DIR")
    return claim, Path(folder).expanduser()
