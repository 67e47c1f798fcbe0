"""Adapters: LoRA, AdaLoRA and IA3 with every key of the page, and the types that practice has added."""

import pytest
from llm_api.config import InvalidConfig, LoraAdapter, load_config

from tests.support.documents import build_config
from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "trainer: {type: finetune}\nadapter: SECTION"
LOW_RANK = ("lora", "adalora")
ADDED = ("vera", "loha", "lokr", "oft", "boft")
EVERY = (*LOW_RANK, "ia3", *ADDED)

PRINTED_LORA = (
    "r: 8, dropout: 0.05, target_modules: null, use_rslora: false, use_dora: false, alpha: 16, "
    "pretrained_adapter_weights: null, "
    "postprocessor: {merge_adapter_into_base_model: false, progressbar: false}, bias_type: none"
)
PRINTED_ADALORA = (
    f"{PRINTED_LORA}, target_r: 8, init_r: 12, tinit: 0, tfinal: 0, delta_t: 1, beta1: 0.85, beta2: 0.85, "
    "orth_reg_weight: 0.5, total_step: null, rank_pattern: null"
)
PRINTED_IA3 = (
    "target_modules: null, feedforward_modules: null, fan_in_fan_out: false, modules_to_save: null, "
    "init_ia3_weights: true, pretrained_adapter_weights: null, "
    "postprocessor: {merge_adapter_into_base_model: false, progressbar: false}"
)
PRINTED = {
    "vera": "r: 256, target_modules: null, projection_prng_key: 0",
    "loha": "r: 8, alpha: 8, target_modules: null",
    "lokr": "r: 8, alpha: 8.0, target_modules: null",
    "oft": "r: 0, oft_block_size: 32, module_dropout: 0.0, target_modules: null, coft: false, eps: 6e-05",
    "boft": "boft_block_size: 4, boft_n_butterfly_factor: 1, boft_dropout: 0.05, target_modules: null",
}


def of_type(kind: str, keys: str) -> str:
    return f"{{type: {kind}, {keys}}}"


ACCEPTED = [
    Accepted("{type: lora}", "the page's example"),
    Accepted(of_type("lora", PRINTED_LORA), "the page's printed LoRA block"),
    Accepted(of_type("adalora", PRINTED_ADALORA), "the page's printed AdaLoRA block"),
    Accepted(of_type("ia3", PRINTED_IA3), "the page's printed IA3 block"),
    *(Accepted(of_type(kind, PRINTED[kind]), "all defaults") for kind in ADDED),
    *(Accepted(of_type(kind, "target_modules: all-linear"), "all of them") for kind in ADDED),
    Accepted("{type: vera, r: 1, projection_prng_key: 4294967295}", "a rank and a key"),
    Accepted("{type: loha, alpha: 0.5}", "a positive number"),
    Accepted("{type: oft, r: 8}", "a number of blocks"),
    Accepted("{type: oft, coft: true, eps: 0.5}", "a bound"),
    Accepted("{type: boft, boft_block_size: 8, boft_dropout: 1}", "a size and a share"),
    *(
        Accepted(of_type(kind, keys), reason)
        for kind in LOW_RANK
        for keys, reason in [
            ("r: 1", "a positive integer"),
            ("r: 256", "a positive integer"),
            ("alpha: 1", "a positive number"),
            ("alpha: 0.5", "a positive number"),
            ("alpha: null", "then 2 * r"),
            ("dropout: 0", "a probability"),
            ("dropout: 0.5", "a probability"),
            ("dropout: 1.0", "a probability"),
            ("bias_type: none", "an option"),
            ("bias_type: all", "an option"),
            ("bias_type: lora_only", "an option"),
            ("use_rslora: true", "an option"),
            ("use_dora: false", "an option"),
            ("target_modules: [q, v]", "a list of names"),
            ("target_modules: '.decoder.(SelfAttention|EncDecAttention).*(q|v)$'", "a regular expression"),
            ("target_modules: all-linear", "all of them"),
        ]
    ),
    *(
        Accepted(of_type(kind, keys), reason)
        for kind in EVERY
        for keys, reason in [
            ("pretrained_adapter_weights: some/path", "a path"),
            ("pretrained_adapter_weights: null", "none"),
            ("postprocessor: null", "a null section is one that was left out"),
            ("postprocessor: {}", "all defaults"),
            ("postprocessor: {merge_adapter_into_base_model: true, progressbar: true}", "options true, false"),
        ]
    ),
    Accepted("{type: lora, use_dora: true}", "an option"),
    Accepted("{type: lora, rank_pattern: {q_proj: 4}, alpha_pattern: {q_proj: 8}}", "ranks by layer"),
    Accepted("{type: lora, init_lora_weights: eva}", "a start by the rows"),
    Accepted(
        "{type: lora, init_lora_weights: eva, eva_config: {rho: 2.0, tau: 0.99, use_label_mask: true, "
        "label_mask_value: -100, whiten: false, adjust_scaling_factors: true}}",
        "all defaults",
    ),
    Accepted("{type: lora, loraplus_lr_ratio: 16}", "a ratio of rates"),
    Accepted("{type: lora, loraplus_lr_ratio: null}", "one rate"),
    Accepted("{type: adalora, init_r: 16, target_r: 4, tinit: 200, tfinal: 1000, total_step: 5000}", "steps in order"),
    Accepted("{type: adalora, total_step: null}", "the printed default"),
    Accepted("{type: adalora, rank_pattern: {layers.0.q_proj: 4}}", "allocated ranks"),
    Accepted("{type: ia3, init_ia3_weights: false, fan_in_fan_out: true}", "options true, false"),
    Accepted("{type: ia3, modules_to_save: [lm_head]}", "a list of modules"),
    Accepted("{type: ia3, target_modules: [k, v, wo], feedforward_modules: [wo]}", "a subset of target_modules"),
    Accepted("{type: ia3, target_modules: [k, v, wo], feedforward_modules: wo}", "a name of target_modules"),
]

REFUSED = [
    Refused("{}", "adapter.type", "an adapter has a type"),
    Refused("{r: 8}", "adapter.type", "an adapter has a type"),
    Refused("{type: null}", "adapter.type", "an adapter has a type"),
    *(
        Refused(f"{{type: {kind}}}", "adapter.type", "no type of adapter that there is")
        for kind in (
            "LoRA", "qlora", "prompt_tuning", "prefix_tuning", "p_tuning", "adaption_prompt", "fourierft", "hra",
            "ln_tuning", "vblora", "c3a", "waveft", "tinylora", "5",
        )
    ),
    *(
        Refused(of_type(kind, f"{key}: {value}"), f"adapter.{key}", reason)
        for kind, key, value, reason in [
            ("vera", "r", "0", "a rank"),
            ("vera", "projection_prng_key", "-1", "a key to draw by"),
            ("vera", "projection_prng_key", "0.5", "a key to draw by"),
            ("vera", "alpha", "8", "a key of LoRA"),
            ("loha", "r", "0", "a rank"),
            ("loha", "alpha", "0", "an update that would not be there"),
            ("loha", "alpha", "null", "a number"),
            ("lokr", "dropout", "0.1", "a key of LoRA"),
            ("lokr", "alpha", "-1", "a positive number"),
            ("oft", "r", "-1", "a number of blocks"),
            ("oft", "oft_block_size", "0", "a size"),
            ("oft", "module_dropout", "0.1", "it would have no effect"),
            ("oft", "coft", "1", "options true, false"),
            ("oft", "eps", "0", "a bound"),
            ("oft", "eps", "0.1", "without coft it would have no effect"),
            ("boft", "boft_block_size", "0", "a size"),
            ("boft", "boft_n_butterfly_factor", "2", "PEFT takes one without an error"),
            ("boft", "boft_n_butterfly_factor", "0", "a number of factors"),
            ("boft", "boft_dropout", "1.5", "a share"),
            ("boft", "bias_type", "all", "a key of LoRA"),
        ]
    ),
    Refused("{type: oft, r: 4, oft_block_size: 8}", "adapter.r", "one leaves the other"),
    Refused("{type: oft, coft: true}", "adapter.eps", "by its default nothing would be learnt"),
    *(
        Refused(of_type(kind, f"{key}: {value}"), f"adapter.{key}", reason)
        for kind in LOW_RANK
        for key, value, reason in [
            ("r", "0", "a positive integer"),
            ("r", "-8", "a positive integer"),
            ("r", "4.5", "a positive integer"),
            ("r", "'8'", "a positive integer"),
            ("r", "true", "a positive integer"),
            ("r", "null", "a positive integer"),
            ("r", "[8]", "a positive integer"),
            ("alpha", "0", "a positive number"),
            ("alpha", "-1", "a positive number"),
            ("alpha", "'16'", "a positive number"),
            ("alpha", "auto", "a positive number"),
            ("alpha", "true", "a positive number"),
            ("dropout", "-0.1", "a probability"),
            ("dropout", "1.5", "a probability"),
            ("dropout", "'0.1'", "a probability"),
            ("dropout", "null", "a probability"),
            ("dropout", ".nan", "a probability"),
            ("bias_type", "some", "not an option"),
            ("bias_type", "true", "not an option"),
            ("bias_type", "null", "not an option"),
            ("use_rslora", "1", "options true, false"),
            ("use_rslora", "'true'", "options true, false"),
            ("use_dora", "null", "options true, false"),
            ("target_modules", "[]", "a list that names modules"),
            ("target_modules", "5", "names or an expression"),
            ("target_modules", "''", "names or an expression"),
            ("target_modules", "{q: true}", "names or an expression"),
            ("lora_alpha", "64", "PEFT's name is not alpha"),
            ("lora_dropout", "0.1", "PEFT's name is not dropout"),
            ("bias", "none", "PEFT's name is not bias_type"),
            ("rank", "8", "an unknown key"),
            ("task_type", "CAUSAL_LM", "an unknown key"),
            ("modules_to_save", "[lm_head]", "a key of IA3"),
            ("layer_replication", "[[0, 4]]", "changes the base"),
        ]
    ),
    *(
        Refused(of_type(kind, f"{key}: {value}"), f"adapter.{at}", reason)
        for kind in EVERY
        for key, value, at, reason in [
            ("pretrained_adapter_weights", "5", "pretrained_adapter_weights", "a path is text"),
            ("pretrained_adapter_weights", "''", "pretrained_adapter_weights", "a path is text"),
            ("postprocessor", "merge", "postprocessor", "a section"),
            ("postprocessor", "{merge: true}", "postprocessor.merge", "merge (short) would not merge"),
            ("postprocessor", "{progress_bar: true}", "postprocessor.progress_bar", "a typo"),
            ("postprocessor", "{merge_adapter_into_base_model: 1}",
             "postprocessor.merge_adapter_into_base_model", "options true, false"),
            ("postprocessor", "{progressbar: null}", "postprocessor.progressbar", "options true, false"),
        ]
    ),
    Refused(of_type("lora", "loraplus_lr_ratio: 0"), "adapter.loraplus_lr_ratio", "a matrix that would not learn"),
    Refused(of_type("adalora", "eva_config: {rho: 2}"), "adapter.eva_config", "a key of LoRA"),
    Refused(of_type("lora", "eva_config: {rho: 2}"), "adapter.eva_config", "without eva it would have no effect"),
    *(
        Refused(
            of_type("lora", f"init_lora_weights: eva, eva_config: {{{key}: {value}}}"), f"adapter.eva_config.{key}", why
        )
        for key, value, why in [
            ("rho", "0.5", "PEFT takes 1 or more"),
            ("tau", "1.5", "a cosine"),
            ("use_label_mask", "1", "options true, false"),
            ("label_mask_value", "0", "labels are made here"),
            ("whiten", "null", "options true, false"),
            ("adjust_scaling", "true", "a typo"),
        ]
    ),
    Refused(of_type("adalora", "loraplus_lr_ratio: 4"), "adapter.loraplus_lr_ratio", "a key of LoRA"),
    *(
        Refused(of_type("lora", f"{key}: 8"), f"adapter.{key}", "a key of AdaLoRA would be lost")
        for key in ("target_r", "init_r", "tinit", "tfinal", "delta_t", "total_step")
    ),
    Refused("{type: lora, init_lora_weights: magic}", "adapter.init_lora_weights", "not an option"),
    Refused("{type: lora, rank_pattern: {q: 0}}", "adapter.rank_pattern.q", "a rank"),
    Refused("{type: lora, rank_pattern: [4]}", "adapter.rank_pattern", "layers with ranks"),
    *(
        Refused(of_type("adalora", f"{key}: {value}"), f"adapter.{key}", reason)
        for key, value, reason in [
            ("target_r", "0", "a rank"),
            ("target_r", "4.5", "a rank"),
            ("init_r", "0", "a rank"),
            ("init_r", "'12'", "a rank"),
            ("tinit", "-1", "a number of steps"),
            ("tinit", "1.5", "a number of steps"),
            ("tfinal", "-1", "a number of steps"),
            ("delta_t", "0", "a step interval"),
            ("delta_t", "-1", "a step interval"),
            ("beta1", "1.5", "a hyperparameter of a moving average"),
            ("beta1", "-0.1", "a hyperparameter of a moving average"),
            ("beta2", "'0.85'", "a number"),
            ("orth_reg_weight", "-0.5", "a coefficient"),
            ("total_step", "0", "a number of steps"),
            ("total_step", "auto", "a number of steps"),
            ("rank_pattern", "8", "ranks for each weight"),
            ("use_dora", "true", "PEFT's AdaLoRA has none, it would be lost"),
            ("init_lora_weights", "default", "a key of LoRA"),
            ("deltaT", "1", "PEFT's name"),
        ]
    ),
    Refused("{type: adalora, init_r: 4, target_r: 8}", "adapter.init_r", "pruned from init_r down to target_r"),
    Refused("{type: adalora, target_r: 16}", "adapter.init_r", "pruned from init_r down to target_r"),
    Refused("{type: adalora, tinit: 6, tfinal: 4, total_step: 10}", "adapter.total_step", "no step is left"),
    *(
        Refused(of_type("ia3", f"{key}: {value}"), f"adapter.{key}", reason)
        for key, value, reason in [
            ("modules_to_save", "lm_head", "a list"),
            ("feedforward_modules", "5", "names"),
            ("fan_in_fan_out", "1", "options true, false"),
            ("init_ia3_weights", "'yes'", "options true, false"),
            ("r", "8", "a key of LoRA"),
            ("dropout", "0.1", "a key of LoRA"),
            ("alpha", "16", "a key of LoRA"),
        ]
    ),
    Refused("{type: ia3, modules_to_save: [5]}", "adapter.modules_to_save[0]", "names"),
    Refused("{type: ia3, target_modules: [k], feedforward_modules: [wo]}", "adapter.feedforward_modules", "no subset"),
    Refused("{type: ia3, target_modules: [k], feedforward_modules: wo}", "adapter.feedforward_modules", "no such name"),
]  # fmt: skip


@parametrize(ACCEPTED)
def test_an_adapter_that_the_page_allows_is_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(REFUSED)
def test_an_adapter_that_the_page_does_not_allow_is_refused(case: Refused) -> None:
    assert_refused(FRAME, case)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [("r: 8", 16), ("r: 4", 8), ("r: 4, alpha: 3", 3), ("r: 4, alpha: 0.5", 0.5), ("alpha: 16", 16)],
)
def test_alpha_is_as_written_and_else_twice_the_rank(keys: str, expected: float) -> None:
    adapter = load_config(build_config(FRAME.replace("SECTION", of_type("lora", keys)))).adapter
    assert isinstance(adapter, LoraAdapter)
    assert adapter.effective_alpha == expected
    assert type(adapter.effective_alpha) is type(expected)


@pytest.mark.parametrize("kind", EVERY)
def test_an_adapter_by_its_name_alone_is_the_section_with_its_defaults(kind: str) -> None:
    named, written = (
        load_config(build_config(FRAME.replace("SECTION", section))) for section in (kind, f"{{type: {kind}}}")
    )
    assert named == written


@pytest.mark.parametrize(
    ("kind", "instead"),
    [("fourierft", "write vera"), ("ln_tuning", "write ia3"), ("hra", "write oft or boft"), ("p_tuning", "write lora")],
)
def test_a_type_that_is_known_but_not_there_is_refused_by_its_name_with_what_to_write(kind: str, instead: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_config(build_config(FRAME.replace("SECTION", of_type(kind, "r: 4"))))
    assert [(issue.path, issue.found) for issue in refused.value.issues] == [("adapter.type", f'"{kind}"')]
    assert "adapter.type: not supported: " in str(refused.value)
    assert instead in str(refused.value)
