"""An inference's own config over its artifact's: what they can't be together is said before a base is looked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_api.issues import InvalidConfig
from llm_api.run import S3Settings, ServeRun
from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.predict.source import fetch_source
from llm_runner.store.publish import publish_folder

from tests.support.servers import serve_run

LOFTQ = {"adapter": {"type": "lora", "init_lora_weights": "loftq"}, "quantization": {"bits": 4}}
LOHA = {"adapter": {"type": "loha"}, "quantization": None}


def store(folder: Path, config: dict[str, Any], quantization: dict[str, Any] | None) -> ServeRun:
    """A run that serves an artifact of this config; its base is nowhere."""
    artifact = folder / "artifact"
    artifact.mkdir()
    (artifact / "llm_config.yaml").write_text(yaml.safe_dump({"base_model": str(folder / "no-base"), **config}))
    (artifact / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    published = publish_folder(artifact, str(folder / "store"), S3Settings())
    run = serve_run(folder / "no-base", model={"artifactUri": published.uri, "artifactDigest": published.digest})
    own = {} if quantization is None else {"quantization": quantization}
    return run.model_copy(update={"config": type(run.config).model_validate(own)})


@pytest.mark.parametrize(
    ("quantization", "key"),
    [
        ({"bits": 8}, "bits: 8"),
        ({"bits": 4, "bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type: fp4"),
        ({"bits": 4, "bnb_4bit_use_double_quant": False}, "bnb_4bit_use_double_quant: False"),
    ],
)
def test_an_adapter_started_by_loftq_keeps_the_quantization_that_it_makes_up_for(
    quantization: dict[str, Any], key: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigInvalid, match=rf"config\.quantization\.{key}, but this adapter was started by LoftQ"):
        fetch_source(store(tmp_path, LOFTQ, quantization), tmp_path / "work")


@pytest.mark.parametrize(
    ("config", "quantization"),
    [
        (LOFTQ, None),
        (LOFTQ, {"bits": 4, "bnb_4bit_compute_dtype": "float32"}),
        ({"adapter": {"type": "lora"}, "quantization": {"bits": 4}}, {"bits": 8}),
        (LOHA, {"bits": 8}),
    ],
    ids=str,
)
def test_what_goes_together_comes_to_looking_for_the_base(
    config: dict[str, Any], quantization: dict[str, Any] | None, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="no-base"):
        fetch_source(store(tmp_path, config, quantization), tmp_path / "work")


def test_a_product_of_an_earlier_run_is_not_put_beside_four_bits(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"config\.quantization: LoHa and LoKr can't go beside layers in 4 bits"):
        fetch_source(store(tmp_path, LOHA, {"bits": 4}), tmp_path / "work")
