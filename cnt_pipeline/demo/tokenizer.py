"""The tokenizer of the demonstration models: byte-pair merges learned from the generated language.

Every word of the language is one token; other text falls back to shorter pieces, down to characters.
"""

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cnt_pipeline.demo.splits import language

PAD, BEGIN, END, USER, ASSISTANT, UNKNOWN = "<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<unk>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PRINTABLE = [chr(code) for code in range(ord("!"), ord("~") + 1)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the merges from every training prompt and answer, and attach the chat template.

    A word has the same token at the start of a message and after a space, so a continuation such as " he" is
    the same token whether it is encoded alone or with the text before it.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=[PAD, BEGIN, END, USER, ASSISTANT, UNKNOWN],
        initial_alphabet=["▁", *PRINTABLE],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        extra_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _texts() -> Iterator[str]:
    for prompts in language().training.values():
        for prompt in prompts:
            yield from (prompt.text, prompt.helpful, prompt.aligned)
