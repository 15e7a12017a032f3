"""The lab's tokenizer: word level, one token for each number, operator, word and tag.

Any sequence of ids decodes to a text that encodes to the same ids (numbers and words that stand side by side are
kept apart by a space, symbols need none), and every text of the lab is the decoding of its encoding. So grading the
text of a completion and training on its ids always speak of the same thing.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from srpo_core.problems.lab.world import MAX_NUMBER

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SYMBOLS = ("+", "-", "*", "=", ",")
WORDS = ("has", "gets", "loses", "times", "f", "x", "add", "sub", "mul")
VOCABULARY = (*SPECIAL, *TAGS, *SYMBOLS, *WORDS, *map(str, range(MAX_NUMBER + 1)))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the lab. Encoding puts <bos> in front unless `add_special_tokens=False`."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    pieces = pre_tokenizers.Split(Regex(r"</?[a-z]+>|[a-z]+|[0-9]+|\S"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pieces])
    # WordPiece's decoder (its prefix never occurs) only joins by spaces; the symbols then swallow theirs.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="\0", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(Regex(rf" ?{_escape(mark)} ?"), mark) for mark in (*TAGS, *SYMBOLS)),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, VOCABULARY.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _escape(mark: str) -> str:
    return "".join(rf"\{character}" if character in "+*-" else character for character in mark)
