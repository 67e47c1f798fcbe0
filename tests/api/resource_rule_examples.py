"""For each rule of the two kinds, but for the config's: parts of a spec that keep it, and that break it alone."""

from tests.api.config_rule_examples import Examples
from tests.support.documents import LEAST_CONFIG


def config_of(trainer: str) -> str:
    return f"{LEAST_CONFIG[:-1]}, trainer: {trainer}}}"


def rows_of(keys: str, beside: str = "", adapter: str = "{type: lora}") -> str:
    """A fine-tune whose trainer has these keys."""
    return f"config: {LEAST_CONFIG[:-1]}, adapter: {adapter}, {beside}trainer: {{type: finetune, {keys}}}}}"


def fsdp(section: str) -> str:
    """A fine-tune with this section whose layers are shared out over two devices."""
    rows = "" if section.startswith("trainer") else ", trainer: {type: finetune, batch_size: 2}"
    return f"config: {LEAST_CONFIG[:-1]}, {section}{rows}}}\ncompute: {{nodes: 2, parallelism: fsdp}}"


TUNED = f"config: {config_of('{type: finetune}')}"

FINE_TUNE_RULES = {
    "rows-need-devices": Examples(
        keeps=(f"config: {config_of('{type: none}')}\ncompute: {{nodes: 1, accelerators: {{count: 1}}}}",),
        breaks=(f"config: {config_of('{type: none}')}\ncompute: {{accelerators: {{count: 2}}}}",),
    ),
    "rows-shared-by-devices": Examples(
        keeps=(
            f"{rows_of('effective_batch_size: 12')}\ncompute: {{nodes: 2, accelerators: {{count: 3}}}}",
            f"{rows_of('batch_size: 2, gradient_accumulation_steps: 6')}\ncompute: {{nodes: 4}}",
            f"{rows_of('batch_size: auto')}\ncompute: {{nodes: 3}}",
            f"{rows_of('batch_size: auto, effective_batch_size: auto')}\ncompute: {{nodes: 7}}",
            f"{TUNED}\ncompute: {{nodes: 1}}",
        ),
        breaks=(
            f"{rows_of('batch_size: 8')}\ncompute: {{accelerators: {{count: 3}}}}",
            f"{rows_of('batch_size: auto, gradient_accumulation_steps: 6')}\ncompute: {{nodes: 4}}",
            f"{rows_of('batch_size: auto, effective_batch_size: 9')}\ncompute: {{accelerators: {{count: 6}}}}",
            f"{TUNED}\ncompute: {{nodes: 2}}",
        ),
    ),
    "fsdp-needs-lora": Examples(
        keeps=(
            fsdp("adapter: {type: lora, init_lora_weights: eva}"),
            fsdp("adapter: null"),
            f"{rows_of('batch_size: 2', adapter='{type: ia3}')}\ncompute: {{nodes: 2}}",
        ),
        breaks=(fsdp("adapter: {type: ia3}"), fsdp("adapter: {type: lora, init_lora_weights: pissa}")),
    ),
    "fsdp-needs-single-numbers": Examples(
        keeps=(
            fsdp("trainer: {type: finetune, batch_size: 2, optimizer: {type: sgd}, compile: false}"),
            fsdp("trainer: {type: finetune, batch_size: 2, regularization_type: l1, regularization_lambda: 0}"),
            f"{rows_of('batch_size: 2, compile: true')}\ncompute: {{nodes: 2, parallelism: ddp}}",
        ),
        breaks=(
            fsdp("trainer: {type: dpo, batch_size: 2}"),
            fsdp("trainer: {type: finetune, batch_size: 2, optimizer: {type: adamw_8bit}}"),
            fsdp("trainer: {type: finetune, batch_size: 2, regularization_lambda: 0.1}"),
            fsdp("trainer: {type: finetune, batch_size: 2, compile: true}"),
        ),
    ),
    "fsdp-needs-whole-numbers": Examples(
        keeps=(
            f"{rows_of('batch_size: 2', 'quantization: {bits: 4}, ')}\ncompute: {{nodes: 2, parallelism: fsdp}}",
            f"{rows_of('batch_size: 2', 'quantization: {bits: 8}, ')}\ncompute: {{nodes: 2, parallelism: ddp}}",
        ),
        breaks=(f"{rows_of('batch_size: 2', 'quantization: {bits: 8}, ')}\ncompute: {{nodes: 2, parallelism: fsdp}}",),
    ),
    "source-exactly-one": Examples(
        keeps=(
            "dataset: {train: {uri: s3://data/a.csv}}",
            "dataset: {train: {configMap: {name: data, key: a.csv}}}",
            "dataset: {train: {volume: {claimName: data, path: a.csv}, uri: null}}",
        ),
        breaks=(
            "dataset: {train: {}}",
            "dataset: {train: {uri: s3://data/a.csv}, test: {}}",
            "dataset: {train: {uri: s3://data/a.csv, configMap: {name: data, key: a.csv}}}",
        ),
    ),
    "source-volume-file": Examples(
        keeps=("dataset: {train: {volume: {claimName: data, path: a.csv}}}",),
        breaks=(
            "dataset: {train: {volume: {claimName: data}}}",
            "dataset: {train: {volume: {claimName: data, path: ''}}}",
        ),
    ),
    "volume-path-inside": Examples(
        keeps=("output: {volume: {claimName: models, path: a/b..c}}", "output: {volume: {claimName: models}}"),
        breaks=(
            "output: {volume: {claimName: models, path: a/../../b}}",
            "output: {volume: {claimName: models, path: ..}}",
        ),
    ),
    "destination-exactly-one": Examples(
        keeps=("output: {uri: s3://models/bot}", "output: {volume: {claimName: models}}"),
        breaks=("output: {}", "output: {uri: s3://models/bot, volume: {claimName: models}}"),
    ),
    "pod-template-protected": Examples(
        keeps=("compute: {podTemplate: {spec: {nodeSelector: {gpu: a}}}}", "compute: {podTemplate: {}}"),
        breaks=(
            "compute: {podTemplate: {spec: {hostNetwork: true}}}",
            "compute: {podTemplate: {spec: {serviceAccountName: admin}}}",
        ),
    ),
    "gate-bound": Examples(
        keeps=(f"{TUNED}\ngate: {{metric: loss, max: 1.9}}", f"{TUNED}\ngate: {{metric: perplexity, min: 0}}"),
        breaks=(f"{TUNED}\ngate: {{metric: loss}}", f"{TUNED}\ngate: {{metric: loss, max: null}}"),
    ),
    "gate-order": Examples(
        keeps=(f"{TUNED}\ngate: {{metric: loss, min: 1, max: 1.0}}",),
        breaks=(f"{TUNED}\ngate: {{metric: loss, min: 2, max: 1}}",),
    ),
    "gate-needs-training": Examples(
        keeps=(f"{TUNED}\ngate: {{metric: loss, max: 1}}",),
        breaks=("gate: {metric: loss, max: 1}",),
    ),
    "hub-needs-training": Examples(
        keeps=(f"{TUNED}\noutput: {{uri: s3://models/bot, hub: {{repoId: acme/bot}}}}",),
        breaks=("output: {uri: s3://models/bot, hub: {repoId: acme/bot}}",),
    ),
    "gate-rewards-need-pairs": Examples(
        keeps=(
            f"gate: {{metric: reward_accuracy, min: 0.7}}\nconfig: {config_of('{type: dpo}')}",
            f"gate: {{metric: reward_margin, min: 0}}\nconfig: {config_of('{type: kto}')}",
            f"{TUNED}\ngate: {{metric: next_token_accuracy, min: 0.7}}",
        ),
        breaks=(
            f"gate: {{metric: reward_accuracy, min: 0.7}}\nconfig: {config_of('{type: orpo}')}",
            f"gate: {{metric: reward_margin, min: 1}}\nconfig: {config_of('{type: finetune}')}",
        ),
    ),
}

INFERENCE_RULES = {
    "no-remote-code": Examples(
        keeps=("config: {base_model: a, trust_remote_code: false}",),
        breaks=("config: {base_model: a, trust_remote_code: true}",),
    ),
    "model-at-most-one": Examples(
        keeps=("model: {fineTuneRef: {name: bot}}", "model: {uri: s3://models/bot}", "model: {}"),
        breaks=("model: {fineTuneRef: {name: bot}, uri: s3://models/bot}",),
    ),
    "inference-some-model": Examples(
        keeps=(
            "model: {fineTuneRef: {name: bot}}\nconfig: {}",
            "model: {uri: hf://acme/bot}\nconfig: null",
            "config: {base_model: acme/small}",
        ),
        breaks=("config: {}", "config: (left out)", "config: {base_model: null}\nmodel: {}"),
    ),
    "inference-serve-or-batch": Examples(
        keeps=(
            "serve: {replicas: 2}",
            "serve: null\nbatch: {dataset: {uri: s3://a/b}, output: {uri: s3://data/out.csv}}",
        ),
        breaks=("serve: null", "serve: {}\nbatch: {dataset: {uri: s3://a/b}, output: {uri: s3://data/out.csv}}"),
    ),
    "batch-output-format": Examples(
        keeps=(
            "serve: null\nbatch: {dataset: {uri: s3://a/b}, output: {uri: s3://data/out.parquet}}",
            "serve: null\nbatch: {dataset: {uri: s3://a/b}, output: {volume: {claimName: a, path: out.jsonl}}}",
        ),
        breaks=(
            "serve: null\nbatch: {dataset: {uri: s3://a/b}, output: {uri: s3://data/out}}",
            "serve: null\nbatch: {dataset: {uri: s3://a/b}, output: {volume: {claimName: a}}}",
        ),
    ),
    "autoscaling-order": Examples(
        keeps=("serve: {autoscaling: {maxReplicas: 1, target: {metric: queueDepth, value: 4}}}",),
        breaks=("serve: {autoscaling: {minReplicas: 3, maxReplicas: 2, target: {metric: queueDepth, value: 4}}}",),
    ),
}

UNSTORED_RULES = {"metadata-name"}
"""Of keys that a CRD may not speak of; their tests are beside the class."""
