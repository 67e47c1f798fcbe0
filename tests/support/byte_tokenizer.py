"""A real tokenizer of 258 tokens, made on the spot: one for each byte, a beginning and an end."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS = 0, 1


def byte_tokenizer(opening: str = "", ending: str = "", *, eos: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, and around each text what ``opening`` and ``ending`` say."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": BOS, "</s>": EOS} | {letter: place + 2 for place, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if opening or ending:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{opening} $A {ending}".strip(), special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>" if eos else None)  # type: ignore[no-untyped-call]
