"""Small tokenizers of every temper: they join words over the boundary, put tokens around, write conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ckptaudit.behavior.tokenizers import Tokenizer as Opened
from ckptaudit.behavior.tokenizers import open_tokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = ("the answer is yes and the answer is no", "may I go out now", "no, yes, no, maybe") * 20


def bpe(folder: Path, *, opens: bool = True, closes: bool = False, template: str | None = TEMPLATE) -> Opened:
    """A byte-level BPE tokenizer that puts <s> in front, or </s> behind, where special tokens are asked for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    around = f"{'<s> ' if opens else ''}$A{' </s>' if closes else ''}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return saved(tokenizer, folder, template)


def saved(tokenizer: Any, folder: Path, template: str | None) -> Opened:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return open_tokenizer(folder)
