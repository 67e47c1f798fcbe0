"""What the page shows, pasted as it stands there, with no more around it than a config needs."""

import pytest
from llm_api.config import CategoryOutputFeature, load_config, parse_template

from tests.support.documents import build_config, issues_of, read

LLAMA = """
model_type: llm
base_model: meta-llama/Llama-2-7b-hf
input_features:
- name: input
  type: text
output_features:
- name: response
  type: text
prompt:
  template: |
    [INST] <<SYS>>
    You are a helpful, detailed, and polite artificial
    intelligence assistant. Your answers are clear and
    suitable for a professional environment.
    If context is provided, answer using only the provided
    contextual information.
    <</SYS>>
    {user_message_1} [/INST]
adapter:
  type: lora
quantization:
  bits: 4
trainer:
  type: finetune
  learning_rate: 0.0001
  batch_size: 1
  gradient_accumulation_steps: 8
  epochs: 3
"""

SENTIMENT = """
output_features:
- name: label
  type: category
  preprocessing:
    fallback_label: "neutral"
  decoder:
    type: category_extractor
    match:
      "negative":
        type: contains
        value: "negative"
      "neutral":
        type: contains
        value: "neutral"
      "positive":
        type: contains
        value: "positive"
"""

FRAGMENTS = {
    "a single column with text around it": """
prompt:
  template: |
    Translate into French
    Input: {english_input}
    Translation:
input_features:
- name: prompt
  type: text
""",
    "several columns": """
prompt:
  template: |
    [INST] <<SYS>>
    You are a helpful, detailed, and polite AI assistant.
    Answer the question using only the provided context.
    <</SYS>>
    ### Context:
    {context}
    ### Question:
    {question}
    ### Response:
    [/INST]
input_features:
- name: prompt
  type: text
""",
    "the defaults of prompt": "prompt: {template: null, task: null, retrieval: {type: null, index_name: null, k: 0}}",
    "labels": SENTIMENT,
    "labels without training": SENTIMENT + "trainer: {type: none}",
    "the defaults of model_parameters": "model_parameters: {rope_scaling: {}, neftune_noise_alpha: 0}",
    "rope scaling": "model_parameters: {rope_scaling: {type: dynamic, factor: 2.0}}",
    "noise": "model_parameters: {neftune_noise_alpha: 5}",
    "fine-tuning": "trainer: {type: finetune}",
    "in-context learning": "trainer: {type: none}",
    "greedy decoding": "generation: {num_beams: 1, do_sample: false}",
    "multinomial sampling": "generation: {num_beams: 1, do_sample: true}",
    "beam search": "generation: {num_beams: 2, do_sample: false}",
    "contrastive search": "generation: {penalty_alpha: 0.1, top_k: 2}",
    "beam-search multinomial sampling": "generation: {num_beams: 2, do_sample: true}",
    "diverse beam search": "generation: {num_beams: 2, num_beam_groups: 2}",
    "the defaults of generation": """
generation:
  max_new_tokens: 32
  temperature: 0.1
  min_new_tokens: null
  max_length: 32
  min_length: 0
  do_sample: true
  num_beams: 1
  use_cache: true
  prompt_lookup_num_tokens: null
  top_k: 50
  top_p: 1.0
  early_stopping: false
  max_time: null
  num_beam_groups: 1
  penalty_alpha: null
  typical_p: 1.0
  epsilon_cutoff: 0.0
  eta_cutoff: 0.0
  diversity_penalty: 0.0
  repetition_penalty: 1.0
  encoder_repetition_penalty: 1.0
  length_penalty: 1.0
  no_repeat_ngram_size: 0
  bad_words_ids: null
  force_words_ids: null
  renormalize_logits: false
  forced_bos_token_id: null
  forced_eos_token_id: null
  remove_invalid_values: false
  exponential_decay_length_penalty: null
  suppress_tokens: null
  begin_suppress_tokens: null
  forced_decoder_ids: null
  sequence_bias: null
  guidance_scale: null
  pad_token_id: null
  bos_token_id: null
  eos_token_id: null
""",
}


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_what_the_page_shows_is_accepted(fragment: str) -> None:
    assert issues_of(build_config(FRAGMENTS[fragment])) == []


def test_the_first_example_of_the_page_is_accepted_and_means_what_it_says() -> None:
    config = load_config(read(LLAMA))
    assert config.finetunes
    assert config.adapter is not None
    assert config.adapter.type == "lora"
    assert parse_template(str(config.effective_prompt.template)).columns == ("user_message_1",)


def test_the_printed_defaults_of_generation_are_the_defaults() -> None:
    printed = load_config(build_config(FRAGMENTS["the defaults of generation"])).generation
    assert printed.model_dump() == load_config(build_config()).generation.model_dump()


def test_the_labels_of_the_page_fall_back_to_neutral() -> None:
    output = load_config(build_config(SENTIMENT)).output_features[0]
    assert isinstance(output, CategoryOutputFeature)
    assert list(output.decoder.match) == ["negative", "neutral", "positive"]
    assert output.effective_fallback_label == "neutral"
