"""For each rule of the LLM config: sections that keep it, and sections that break it and nothing else.

They are written in YAML; `tests.support.documents` puts the least that is valid around them.
"""

from dataclasses import dataclass

FINETUNE = "trainer: {type: finetune}"
LABELS = "{good: {type: contains, value: good}, bad: {type: contains, value: bad}}"


@dataclass(frozen=True)
class Examples:
    keeps: tuple[str, ...]
    breaks: tuple[str, ...]


def label_output(preprocessing: str, decoder: str) -> str:
    return f"output_features: [{{name: label, type: category, preprocessing: {preprocessing}, decoder: {decoder}}}]"


def match(rule: str) -> str:
    return label_output("{fallback_label: good}", f"{{type: category_extractor, match: {{good: {rule}}}}}")


def trainer(keys: str) -> str:
    return f"trainer: {{type: finetune, {keys}}}"


def prompt(keys: str) -> str:
    return f"prompt: {{{keys}}}"


CONFIG_RULES = {
    "rejected-has-a-column": Examples(
        keeps=(
            "trainer: {type: dpo}",
            "trainer: {type: orpo, rejected_column: worse}",
            "trainer: {type: kto}\n" + prompt("template: '{{rejected}} {question}'"),
            "trainer: {type: finetune}\n" + prompt("template: '{rejected}'"),
            "trainer: {type: kto}\n" + prompt("template: '{rejected_before}'"),
        ),
        breaks=(
            "trainer: {type: dpo, rejected_column: answer}",
            "trainer: {type: kto, rejected_column: prompt}",
            "trainer: {type: orpo}\noutput_features: [{name: answer, column: rejected, type: text}]",
            "trainer: {type: dpo}\n" + prompt("template: '{question} {rejected}'"),
            "trainer: {type: dpo, rejected_column: worse}\n" + prompt("template: '{worse:>9} {question}'"),
        ),
    ),
    "ipo-no-smoothing": Examples(
        keeps=(
            "trainer: {type: dpo, dpo_loss_type: ipo, dpo_label_smoothing: 0}",
            "trainer: {type: dpo, dpo_label_smoothing: 0.1}",
        ),
        breaks=("trainer: {type: dpo, dpo_loss_type: ipo, dpo_label_smoothing: 0.1}",),
    ),
    "rewards-need-pairs": Examples(
        keeps=(
            "trainer: {type: dpo, validation_metric: reward_accuracy}",
            "trainer: {type: kto, validation_metric: reward_margin}",
            trainer("validation_metric: loss"),
        ),
        breaks=(
            trainer("validation_metric: reward_accuracy"),
            "trainer: {type: orpo, validation_metric: reward_margin}",
            "trainer: {type: none, validation_metric: reward_margin}",
        ),
    ),
    "freeze-regex-compiles": Examples(
        keeps=(trainer("layers_to_freeze_regex: 'layers[.][0-3][.]'"), trainer("layers_to_freeze_regex: null")),
        breaks=(trainer("layers_to_freeze_regex: 'layers[.'"),),
    ),
    "no-remote-code": Examples(
        keeps=("trust_remote_code: false",),
        breaks=("trust_remote_code: true",),
    ),
    "backend-local": Examples(
        keeps=("backend: {type: local}", "backend: {}", "backend: null"),
        breaks=("backend: {type: ray}", "backend: {type: horovod}"),
    ),
    "finetune-needs-text": Examples(
        keeps=(FINETUNE, label_output("{fallback_label: good}", f"{{match: {LABELS}}}")),
        breaks=(FINETUNE + "\n" + label_output("{fallback_label: good}", f"{{match: {LABELS}}}"),),
    ),
    "template-without-answer": Examples(
        keeps=(
            prompt("template: '{question}'"),
            prompt("template: '{{answer}} {question}'"),
            prompt("template: '{answers}'"),
            prompt("template: '{answer}'") + "\noutput_features: [{name: reply, type: text}]",
        ),
        breaks=(
            prompt("template: '{question} {answer}'"),
            prompt("template: '{question} {answer:>10}'"),
            prompt("template: '{{{answer}}} {question}'"),
            prompt("template: '{reply}'") + "\noutput_features: [{name: answer, column: reply, type: text}]",
        ),
    ),
    "features-differ": Examples(
        keeps=(
            "output_features: [{name: prompt, column: reply, type: text}]",
            prompt("template: '{question}'") + "\noutput_features: [{name: prompt, type: text}]",
        ),
        breaks=(
            "output_features: [{name: prompt, type: text}]",
            "output_features: [{name: answer, column: prompt, type: text}]",
        ),
    ),
    "validation-field-is-the-output": Examples(
        keeps=(trainer("validation_field: answer"), trainer("validation_field: combined"), trainer("epochs: 1")),
        breaks=(trainer("validation_field: prompt"), "trainer: {type: none, validation_field: other}"),
    ),
    "match-regex-compiles": Examples(
        keeps=(match("{type: regex, value: '^(good|fine)'}"), match("{type: contains, value: '('}")),
        breaks=(match("{type: regex, value: '(good'}"),),
    ),
    "match-schema-parses": Examples(
        keeps=(match('{type: json_schema, value: \'{"type": "object"}\'}'), match("{type: contains, value: '{'}")),
        breaks=(match("{type: json_schema, value: good}"), match("{type: json_schema, value: '[1]'}")),
    ),
    "category-fallback": Examples(
        keeps=(
            label_output("{fallback_label: good}", f"{{match: {LABELS}}}"),
            label_output("null", f"{{match: {LABELS}, fallback_label: bad}}"),
        ),
        breaks=(
            label_output("{}", f"{{match: {LABELS}}}"),
            label_output("{fallback_label: null}", f"{{match: {LABELS}, fallback_label: null}}"),
        ),
    ),
    "category-fallback-is-known": Examples(
        keeps=(label_output("{fallback_label: bad}", f"{{match: {LABELS}}}"),),
        breaks=(
            label_output("{fallback_label: ugly}", f"{{match: {LABELS}}}"),
            label_output("{}", f"{{match: {LABELS}, fallback_label: ugly}}"),
        ),
    ),
    "category-one-fallback": Examples(
        keeps=(label_output("{fallback_label: bad}", f"{{match: {LABELS}, fallback_label: bad}}"),),
        breaks=(label_output("{fallback_label: bad}", f"{{match: {LABELS}, fallback_label: good}}"),),
    ),
    "retrieval-k": Examples(
        keeps=(prompt("task: Sort, retrieval: {type: random, k: 1}"), prompt("task: Sort, retrieval: {k: 0}")),
        breaks=(prompt("task: Sort, retrieval: {type: random, k: 0}"), prompt("task: Sort, retrieval: {type: random}")),
    ),
    "retrieval-semantic-model": Examples(
        keeps=(prompt("task: Sort, retrieval: {type: semantic, k: 2, model_name: a/b}"),),
        breaks=(
            prompt("task: Sort, retrieval: {type: semantic, k: 2}"),
            prompt("task: Sort, retrieval: {type: semantic, k: 2, model_name: null}"),
        ),
    ),
    "retrieval-type": Examples(
        keeps=(
            prompt("retrieval: {type: null, index_name: null, model_name: null, k: 0}"),
            prompt("retrieval: null"),
            prompt("retrieval: {}"),
        ),
        breaks=(
            prompt("task: Sort, retrieval: {k: 3}"),
            prompt("task: Sort, retrieval: {type: null, model_name: a/b}"),
            prompt("task: Sort, retrieval: {index_name: mine}"),
        ),
    ),
    "prompt-template-has-column": Examples(
        keeps=(
            prompt("template: 'Say {word}'"),
            prompt("template: '{__sample__}'"),
            prompt("template: '{{a}} {{{b}}}'"),
            prompt("template: null"),
        ),
        breaks=(
            prompt("template: Say something"),
            prompt("template: '{{word}}'"),
            prompt("template: ''"),
            prompt("task: Sort, template: '{__task__}'"),
            prompt("task: Sort, template: '{__task__} {__context__}', retrieval: {type: random, k: 1}"),
        ),
    ),
    "prompt-template-has-task": Examples(
        keeps=(
            prompt("task: Sort, template: '{__task__} {word}'"),
            prompt("task: Sort"),
            prompt("task: null, template: '{word}'"),
        ),
        breaks=(
            prompt("task: Sort, template: 'Say {word}'"),
            prompt("task: Sort, template: '{{__task__}} {word}'"),
        ),
    ),
    "prompt-task-for-template": Examples(
        keeps=(prompt("template: '{{__task__}} {word}'"), prompt("task: Sort, template: '{__task__} {word}'")),
        breaks=(prompt("template: '{__task__} {word}'"), prompt("task: null, template: '{__task__} {word}'")),
    ),
    "prompt-template-has-context": Examples(
        keeps=(
            prompt("template: '{__context__} {word}', retrieval: {type: random, k: 1}"),
            prompt("task: Sort, retrieval: {type: random, k: 1}"),
        ),
        breaks=(
            prompt("template: 'Say {word}', retrieval: {type: random, k: 1}"),
            prompt("template: '{{__context__}} {word}', retrieval: {type: random, k: 1}"),
        ),
    ),
    "prompt-context-for-template": Examples(
        keeps=(prompt("template: '{{__context__}} {word}'"),),
        breaks=(
            prompt("template: '{__context__} {word}'"),
            prompt("template: '{__context__} {word}', retrieval: {type: null}"),
        ),
    ),
    "prompt-retrieval-needs-prompt": Examples(
        keeps=(prompt("task: Sort, retrieval: {type: random, k: 1}"), prompt("task: null, retrieval: {}")),
        breaks=(prompt("retrieval: {type: random, k: 1}"), prompt("task: null, retrieval: {type: random, k: 1}")),
    ),
    "preprocessing-one-sample": Examples(
        keeps=("preprocessing: {sample_size: 9}", "preprocessing: {sample_size: 9, sample_ratio: 1}"),
        breaks=("preprocessing: {sample_size: 9, sample_ratio: 0.5}",),
    ),
    "split-probabilities-sum": Examples(
        keeps=(
            "preprocessing: {split: {type: random, probabilities: [0.7, 0.1, 0.2]}}",
            "preprocessing: {split: {type: hash, column: a, probabilities: [1, 0, 0]}}",
            "preprocessing: {split: {type: fixed, column: part}}",
        ),
        breaks=(
            "preprocessing: {split: {type: random, probabilities: [0.7, 0.1, 0.1]}}",
            "preprocessing: {split: {type: stratify, probabilities: [0.5, 0.5, 0.5]}}",
            "preprocessing: {split: {type: datetime, column: a, probabilities: [0, 0, 0]}}",
        ),
    ),
    "rope-kind": Examples(
        keeps=(
            "model_parameters: {rope_scaling: {type: linear, factor: 2}}",
            "model_parameters: {rope_scaling: {rope_type: dynamic, factor: 1.5}}",
            "model_parameters: {rope_scaling: {}}",
            "model_parameters: {rope_scaling: {type: null, factor: null}}",
        ),
        breaks=(
            "model_parameters: {rope_scaling: {type: linear}}",
            "model_parameters: {rope_scaling: {factor: 2.0}}",
            "model_parameters: {rope_scaling: {type: null, factor: 2.0}}",
        ),
    ),
    "rope-one-name": Examples(
        keeps=("model_parameters: {rope_scaling: {type: linear, rope_type: linear, factor: 2}}",),
        breaks=("model_parameters: {rope_scaling: {type: linear, rope_type: dynamic, factor: 2}}",),
    ),
    "optimizer-nesterov": Examples(
        keeps=(
            trainer("optimizer: {type: sgd, nesterov: true, momentum: 0.9}"),
            trainer("optimizer: {type: sgd_8bit, nesterov: false, dampening: 0.1}"),
            trainer("optimizer: {type: muon, nesterov: true}"),
        ),
        breaks=(
            trainer("optimizer: {type: sgd, nesterov: true}"),
            trainer("optimizer: {type: sgd_8bit, nesterov: true, momentum: 0.9, dampening: 0.1}"),
        ),
    ),
}
