"""For each rule of adapters, by themselves and beside a quantized base: what keeps it, and what breaks it alone."""

from tests.api.config_rule_examples import FINETUNE, Examples


def lora(keys: str) -> str:
    return f"{FINETUNE}\nadapter: {{type: lora, {keys}}}"


def adalora(keys: str) -> str:
    return f"{FINETUNE}\nadapter: {{type: adalora, {keys}}}"


def ia3(keys: str) -> str:
    return f"{FINETUNE}\nadapter: {{type: ia3, {keys}}}"


def oft(keys: str) -> str:
    return f"{FINETUNE}\nadapter: {{type: oft, {keys}}}"


def boft(keys: str) -> str:
    return f"{FINETUNE}\nadapter: {{type: boft, {keys}}}"


ADAPTER_RULES = {
    "adapter-needs-training": Examples(
        keeps=(lora("r: 8"), "adapter: {type: lora, pretrained_adapter_weights: acme/adapter}", "adapter: null"),
        breaks=("adapter: {type: lora}", "trainer: {type: none}\nadapter: {type: ia3}"),
    ),
    "target-regex-compiles": Examples(
        keeps=(
            lora("target_modules: '.decoder.(SelfAttention|EncDecAttention).*(q|v)$'"),
            lora("target_modules: all-linear"),
            ia3("target_modules: ['(']"),
        ),
        breaks=(lora("target_modules: '(q|v'"), oft("target_modules: '['")),
    ),
    "quantized-finetune-needs-lora": Examples(
        keeps=(
            lora("r: 8") + "\nquantization: {bits: 4}",
            "trainer: {type: dpo}\nadapter: {type: lora}\nquantization: {bits: 4}",
            "quantization: {bits: 8}",
            FINETUNE + "\nquantization: null",
            "adapter: {type: ia3, pretrained_adapter_weights: a}\nquantization: {}",
        ),
        breaks=(
            FINETUNE + "\nquantization: {bits: 4}",
            "trainer: {type: kto}\nquantization: {bits: 4}",
            ia3("init_ia3_weights: true") + "\nquantization: {bits: 8}",
            adalora("init_r: 12") + "\nquantization: {}",
        ),
    ),
    "dora-needs-full-precision": Examples(
        keeps=(lora("use_dora: true"), lora("use_dora: false") + "\nquantization: {}"),
        breaks=(lora("use_dora: true") + "\nquantization: {bits: 4}",),
    ),
    "start-in-the-base-no-dora": Examples(
        keeps=(lora("init_lora_weights: pissa"), lora("use_dora: true, init_lora_weights: gaussian")),
        breaks=(
            lora("use_dora: true, init_lora_weights: pissa_niter_4"),
            lora("use_dora: true, init_lora_weights: olora"),
        ),
    ),
    "loftq-is-not-merged": Examples(
        keeps=(
            lora("init_lora_weights: loftq, postprocessor: {progressbar: true}") + "\nquantization: {}",
            lora("init_lora_weights: olora, postprocessor: {merge_adapter_into_base_model: true}"),
        ),
        breaks=(
            lora("init_lora_weights: loftq, postprocessor: {merge_adapter_into_base_model: true}")
            + "\nquantization: {}",
        ),
    ),
    "stored-adapter-has-started": Examples(
        keeps=(
            lora("pretrained_adapter_weights: acme/adapter"),
            lora("pretrained_adapter_weights: acme/adapter, init_lora_weights: default"),
            lora("pretrained_adapter_weights: null, init_lora_weights: pissa"),
        ),
        breaks=(
            lora("pretrained_adapter_weights: acme/adapter, init_lora_weights: gaussian"),
            lora("pretrained_adapter_weights: acme/adapter, init_lora_weights: pissa"),
        ),
    ),
    "start-needs-full-precision": Examples(
        keeps=(lora("init_lora_weights: orthogonal"), lora("init_lora_weights: gaussian") + "\nquantization: {}"),
        breaks=(
            lora("init_lora_weights: orthogonal") + "\nquantization: {bits: 8}",
            lora("init_lora_weights: pissa") + "\nquantization: {bits: 4}",
            lora("init_lora_weights: olora") + "\nquantization: {}",
        ),
    ),
    "loftq-needs-4-bits": Examples(
        keeps=(
            lora("init_lora_weights: loftq") + "\nquantization: {}",
            lora("init_lora_weights: loftq") + "\nquantization: {bits: 4}",
        ),
        breaks=(lora("init_lora_weights: loftq"), lora("init_lora_weights: loftq") + "\nquantization: {bits: 8}"),
    ),
    "adalora-ranks": Examples(
        keeps=(adalora("init_r: 8, target_r: 8"), adalora("target_r: 12"), adalora("init_r: 9"), lora("r: 1")),
        breaks=(adalora("init_r: 4, target_r: 8"), adalora("target_r: 13"), adalora("init_r: 7")),
    ),
    "adalora-steps": Examples(
        keeps=(adalora("total_step: 10, tinit: 4, tfinal: 5"), adalora("tinit: 4"), adalora("total_step: null")),
        breaks=(adalora("total_step: 10, tinit: 5, tfinal: 5"), adalora("total_step: 10, tfinal: 20")),
    ),
    "adalora-given-ranks": Examples(
        keeps=(
            adalora("init_r: 4, target_r: 2, rank_pattern: {q_proj: 4, v_proj: [true, false, true, false]}"),
            adalora("rank_pattern: {}"),
            adalora("rank_pattern: null"),
        ),
        breaks=(
            adalora("rank_pattern: {q_proj: 4, v_proj: 13}"),
            adalora("init_r: 8, rank_pattern: {q_proj: [true, false]}"),
        ),
    ),
    "adalora-stored-ranks": Examples(
        keeps=(adalora("rank_pattern: {q_proj: 4}"), adalora("pretrained_adapter_weights: acme/adapter")),
        breaks=(adalora("rank_pattern: {q_proj: 4}, pretrained_adapter_weights: acme/adapter"),),
    ),
    "adalora-no-dora": Examples(
        keeps=(adalora("use_dora: false"), lora("use_dora: true")),
        breaks=(adalora("use_dora: true"),),
    ),
    "eva-config-needs-eva": Examples(
        keeps=(
            lora("init_lora_weights: eva, eva_config: {rho: 1}"),
            lora("init_lora_weights: eva"),
            lora("eva_config: null"),
        ),
        breaks=(lora("eva_config: {rho: 2}"), lora("init_lora_weights: gaussian, eva_config: {}")),
    ),
    "no-four-bit-products": Examples(
        keeps=(
            "adapter: {type: loha, pretrained_adapter_weights: a}\nquantization: {bits: 8}",
            "adapter: {type: vera, pretrained_adapter_weights: a}\nquantization: {bits: 4}",
            f"{FINETUNE}\nadapter: {{type: lokr}}\nquantization: null",
        ),
        breaks=(
            "adapter: {type: loha, pretrained_adapter_weights: a}\nquantization: {bits: 4}",
            "adapter: {type: lokr, pretrained_adapter_weights: a}\nquantization: {}",
        ),
    ),
    "oft-blocks": Examples(
        keeps=(oft("r: 4"), oft("r: 0, oft_block_size: 16"), oft("oft_block_size: null, r: 2")),
        breaks=(oft("r: 4, oft_block_size: 32"),),
    ),
    "oft-no-dropout": Examples(
        keeps=(oft("module_dropout: 0"), oft("module_dropout: 0.0")),
        breaks=(oft("module_dropout: 0.1"), oft("module_dropout: 1")),
    ),
    "coft-with-eps": Examples(
        keeps=(
            oft("coft: true, eps: 0.01"),
            oft("coft: true, eps: 2"),
            oft("coft: false, eps: 6.0e-5"),
            oft("coft: false"),
        ),
        breaks=(oft("coft: true"), oft("coft: true, eps: 0.001"), oft("eps: 0.5"), oft("coft: false, eps: 1")),
    ),
    "boft-one-factor": Examples(
        keeps=(boft("boft_n_butterfly_factor: 1"), boft("boft_block_size: 8")),
        breaks=(boft("boft_n_butterfly_factor: 2"),),
    ),
    "ia3-feedforward": Examples(
        keeps=(
            ia3("target_modules: [k_proj, down_proj], feedforward_modules: [down_proj]"),
            ia3("target_modules: [k_proj, down_proj], feedforward_modules: down_proj"),
            ia3("feedforward_modules: null"),
        ),
        breaks=(
            ia3("target_modules: [k_proj], feedforward_modules: [down_proj]"),
            ia3("target_modules: [k_proj], feedforward_modules: down_proj"),
            ia3("feedforward_modules: [down_proj]"),
        ),
    ),
}
