"""Quantization: 4 or 8 bits, and how they are computed with."""

from tests.support.verdicts import Accepted, Refused, assert_accepted, assert_refused, parametrize

FRAME = "trainer: {type: finetune}\nadapter: {type: lora}\nquantization: SECTION"

ACCEPTED = [
    Accepted(
        "{bits: 4, llm_int8_threshold: 6.0, llm_int8_has_fp16_weight: false, bnb_4bit_compute_dtype: float16, "
        "bnb_4bit_use_double_quant: true, bnb_4bit_quant_type: nf4}",
        "the page's printed block",
    ),
    Accepted("null", "no quantization"),
    Accepted("{}", "all defaults"),
    Accepted("{bits: 4}", "an option"),
    Accepted("{bits: 8}", "an option"),
    Accepted("{bits: 8, llm_int8_threshold: 0}", "a threshold"),
    Accepted("{bits: 8, llm_int8_threshold: 4.5}", "a threshold"),
    Accepted("{bits: 8, llm_int8_has_fp16_weight: true}", "options true, false"),
    Accepted("{bnb_4bit_compute_dtype: float32}", "an option"),
    Accepted("{bnb_4bit_compute_dtype: bfloat16}", "an option"),
    Accepted("{bnb_4bit_use_double_quant: false}", "options true, false"),
    Accepted("{bnb_4bit_quant_type: fp4}", "an option"),
]

REFUSED = [
    Refused("4", "", "a section"),
    Refused("true", "", "a section"),
    *(
        Refused(f"{{{key}: {value}}}", f".{key}", reason)
        for key, value, reason in [
            *(("bits", bits, "options 4, 8") for bits in ("2", "3", "16", "32", "0", "-4", "4.5", "'4'", "true")),
            ("bits", "null", "options 4, 8"),
            ("bits", "[4]", "options 4, 8"),
            ("llm_int8_threshold", "-1", "a threshold"),
            ("llm_int8_threshold", "'6'", "a threshold"),
            ("llm_int8_threshold", "null", "a threshold"),
            ("llm_int8_has_fp16_weight", "1", "options true, false"),
            *(
                ("bnb_4bit_compute_dtype", dtype, "not an option")
                for dtype in ("int8", "fp16", "bf16", "float64", "null")
            ),
            ("bnb_4bit_compute_dtype", "torch.float16", "not an option"),
            ("bnb_4bit_use_double_quant", "'yes'", "options true, false"),
            ("bnb_4bit_use_double_quant", "0", "options true, false"),
            ("bnb_4bit_quant_type", "int4", "options fp4, nf4"),
            ("bnb_4bit_quant_type", "NF4", "options fp4, nf4"),
            ("bnb_4bit_quant_type", "null", "options fp4, nf4"),
            ("load_in_4bit", "true", "the library's name"),
            ("bit", "4", "a typo"),
            ("backend", "torchao", "not supported"),
            ("mode", "int4_weight_only", "not supported"),
            ("qat", "true", "not supported"),
        ]
    ),
]


@parametrize(ACCEPTED)
def test_quantization_that_the_page_allows_is_accepted(case: Accepted) -> None:
    assert_accepted(FRAME, case)


@parametrize(REFUSED)
def test_quantization_that_the_page_does_not_allow_is_refused(case: Refused) -> None:
    assert_refused(FRAME, case._replace(path=f"quantization{case.path}"))
