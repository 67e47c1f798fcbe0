"""Keys that say only one thing: it may be written, and anything else is refused with the reason."""

import pytest
from llm_api.config import InvalidConfig, load_config

from tests.support.documents import build_config

CATEGORY = (
    "output_features: [{{name: label, type: category, preprocessing: {{fallback_label: a{inside}}}, "
    "decoder: {{match: {{a: {{type: contains, value: a}}}}{decoder}}}}}]"
)
OTHERS = {
    "model_type": ("model_type: ecd", "write 'llm'"),
    "trust_remote_code": ("trust_remote_code: true", "code of their own are not supported, as it would run unseen"),
    "input_features[0].type": ("input_features: [{name: a, type: category}]", "write 'text'"),
    "input_features[0].preprocessing.tokenizer": (
        "input_features: [{name: a, type: text, preprocessing: {tokenizer: space}}]",
        "write 'hf_tokenizer'",
    ),
    "output_features[0].preprocessing.tokenizer": (
        CATEGORY.format(inside=", tokenizer: space", decoder=""),
        "write 'h",
    ),
    "output_features[0].decoder.type": (
        CATEGORY.format(inside="", decoder=", type: text_extractor"),
        "write 'category_extractor'",
    ),
    "output_features[0].decoder.tokenizer": (CATEGORY.format(inside="", decoder=", tokenizer: space"), "write 'hf_tok"),
    "adapter.use_dora": (
        "adapter: {type: adalora, use_dora: true}\ntrainer: {type: finetune}",
        "AdaLoRA and DoRA can't be combined",
    ),
    "adapter.eva_config.label_mask_value": (
        "adapter: {type: lora, init_lora_weights: eva, eva_config: {label_mask_value: 0}}\ntrainer: {type: finetune}",
        "write -100",
    ),
    "adapter.module_dropout": (
        "adapter: {type: oft, module_dropout: 0.5}\ntrainer: {type: finetune}",
        "takes this key and drops nothing",
    ),
    "adapter.boft_n_butterfly_factor": (
        "adapter: {type: boft, boft_n_butterfly_factor: 2}\ntrainer: {type: finetune}",
        "need code that PEFT compiles for CUDA",
    ),
    "trainer.validation_field": ("trainer: {type: finetune, validation_field: b}", "there is one output to watch"),
    "backend.type": ("backend: {type: ray}", "machines are chosen by spec.compute"),
}


@pytest.mark.proves("model_type", "trust_remote_code", "backend.type", "input_features.type")
@pytest.mark.proves("input_features.preprocessing.tokenizer", "output_features.preprocessing.tokenizer")
@pytest.mark.proves("output_features.decoder.type", "output_features.decoder.tokenizer")
@pytest.mark.proves("adapter.use_dora[adalora]", "trainer.validation_field")
@pytest.mark.proves("adapter.eva_config.label_mask_value", "adapter.module_dropout", "adapter.boft_n_butterfly_factor")
@pytest.mark.parametrize("path", OTHERS)
def test_a_key_that_says_one_thing_refuses_others_with_what_to_write(path: str) -> None:
    sections, told = OTHERS[path]
    with pytest.raises(InvalidConfig) as refused:
        load_config(build_config(sections))
    assert [issue.path for issue in refused.value.issues] == [path]
    assert told in str(refused.value)
