"""How fast texts are scored beside lm-eval's Hugging Face loglikelihood: same model, texts, dtype and threads.

    python -m benchmarks.behavior [--texts 256] [--rounds 3] [--words 100 32000] [--choices 1 4]

It builds a model of the bundled architecture with a vocabulary of each size, scores continuations of licence text,
one or several of each context, by both in turn, in float32 on one thread, and prints scored tokens per second of
processor time and the quotient within each round. lm-eval is given batches of 64 texts; its own default is 1. The
sums are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

THREADS = 1
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import torch  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from ckptaudit.behavior.causal_models import open_model  # noqa: E402
from ckptaudit.behavior.encoding import encode  # noqa: E402
from ckptaudit.behavior.probe import Probe  # noqa: E402
from ckptaudit.behavior.probes import read_probes  # noqa: E402
from ckptaudit.behavior.scoring import Scored, score  # noqa: E402
from ckptaudit.behavior.tokenizers import open_tokenizer  # noqa: E402
from ckptaudit.checkpoints import open_checkpoint  # noqa: E402

FIXTURES = Path(__file__).parent.parent / "fixtures"
BATCH = 64
SAME = 1e-3
"""How far two sums of log-probabilities may be apart, in nats."""

Scores = Callable[[], list[float]]


def pairs(count: int, choices: int = 1) -> list[Probe]:
    """Contexts and continuations of many lengths, cut out of the bundled passages; `choices` share a context."""
    passages = "".join(
        str(p.completions[0]).removeprefix("<bos>") for p in read_probes(FIXTURES / "probes/retain.jsonl")
    )
    found = []
    for number in range(count):
        place, of_it = number // choices, number % choices
        start, front, rest = 7 * place % (len(passages) - 200), 10 + place % 60, 20 + 13 * number % 100
        if choices > 1:  # as in multiple choice: long questions, short answers
            front, rest = 60 + place % 90, 5 + 7 * number % 20
        cut = start + front
        said = passages[cut + of_it : cut + of_it + rest]
        found.append(Probe(number, "<bos>" + passages[start:cut], (said,), "completion", str(number)))
    return found


def built(words: int, folder: Path) -> Path:
    """A model of random weights with so many words, saved with the bundled tokenizer."""
    config = AutoConfig.from_pretrained(FIXTURES / "base", vocab_size=words)
    torch.manual_seed(0)
    build: Any = AutoModelForCausalLM.from_config
    build(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(FIXTURES / "base").save_pretrained(folder)
    return folder


def ours(folder: Path, probes: Sequence[Probe]) -> Scores:
    """Encode and score."""
    checkpoint, tokenizer = open_checkpoint(folder), open_tokenizer(folder)
    model = open_model(checkpoint, checkpoint, torch.device("cpu"))

    def run() -> list[float]:
        texts = encode(probes, tokenizer, context=model.context).texts
        return [
            row.total for row in score(model, [Scored(text.ids, text.scored_from) for text in texts], share=True)
        ]

    return run


def theirs(folder: Path, probes: Sequence[Probe]) -> Scores:
    """The same by lm-eval."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scorer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, device="cpu", add_bos_token=False)

    def run() -> list[float]:
        asked = [
            Instance("loglikelihood", {}, (str(probe.prompt), str(probe.completions[0])), index)
            for index, probe in enumerate(probes)
        ]
        return [total for total, _ in scorer.loglikelihood(asked, disable_tqdm=True)]

    return run


def timed(run: Scores) -> float:
    """Processor seconds of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def compared(words: int, choices: int, count: int, rounds: int) -> str:
    """One line of the table."""
    probes = pairs(count, choices)
    with TemporaryDirectory() as name:
        folder = built(words, Path(name))
        both = ours(folder, probes), theirs(folder, probes)
        first, second = both[0](), both[1]()
        furthest = max(abs(a - b) for a, b in zip(first, second, strict=True))
        assert furthest < SAME, f"sums differ by {furthest} nats"
        texts = encode(probes, open_tokenizer(folder), context=256).texts
        tokens = sum(text.tokens for text in texts)
        seconds = [(timed(both[0]), timed(both[1])) for _ in range(rounds)]
    own, other = (median(column) for column in zip(*seconds, strict=True))
    quotient = median(b / a for a, b in seconds)
    rates = f"{tokens / own:>12,.0f} {tokens / other:>12,.0f}"
    return f"{words:>8,} {choices:>8} {rates} {quotient:>9.2f} {furthest:>12.1g}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior", description=__doc__)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, nargs="+", default=[100, 32_000])
    parser.add_argument("--choices", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    print(f"{'words':>8} {'choices':>8} {'ours':>12} {'lm-eval':>12} {'quotient':>9} {'apart, nats':>12}")
    for words in given.words:
        for choices in given.choices:
            print(compared(words, choices, given.texts, given.rounds))


if __name__ == "__main__":
    main()
