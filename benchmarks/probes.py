"""How fast given texts are scored by both sides of a pair, beside lm-eval's loglikelihood on the same models.

    python -m benchmarks.probes [--texts 512] [--rounds 3] [--vocabulary 32000]

lm-eval (pip install lm-eval) sums the log-probabilities of each completion, and does so for one model after the other.
Ours gives the same sums and, from the same passes, both divergences, ranks and entropies. Both run on one thread in
float32, turn by turn, and the sums are compared before anything is timed. The time is the processor's, which other work on the machine leaves alone. The first pair is the bundled one, with its
vocabulary of 100; the second is random, with a vocabulary of the given size. Opening the models is not timed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

THREADS = 1
os.environ["OMP_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from ckptaudit.behavior.causal_models import CausalModel, open_model  # noqa: E402
from ckptaudit.behavior.comparison import ComparedText, compare  # noqa: E402
from ckptaudit.behavior.encoding import encode  # noqa: E402
from ckptaudit.behavior.probe import Probe  # noqa: E402
from ckptaudit.behavior.scoring import Scored  # noqa: E402
from ckptaudit.behavior.tokenizers import open_tokenizer  # noqa: E402
from ckptaudit.checkpoints import open_checkpoint  # noqa: E402

FIXTURES = Path(__file__).parent.parent / "fixtures"
BATCH = 32
"""Of lm-eval: on these models no slower than 1, 8, 16 and 64."""

Sides = tuple[Path, Path]


def probes(count: int) -> list[Probe]:
    """Passages cut in two: 20 to 90 characters that are read, 10 to 60 that are scored."""
    rng = random.Random(0)
    lines = "".join(p.read_text() for p in sorted((FIXTURES.parent / "docs").glob("*.md")))
    text = "".join(c for c in lines if c.isalnum() or c in " .,:;()")
    found = []
    for number in range(count):
        start, read, scored = rng.randrange(len(text) - 200), rng.randrange(20, 90), rng.randrange(10, 60)
        front, rest = text[start : start + read], text[start + read : start + read + scored]
        found.append(Probe(number, f"<bos>{front.rstrip()}x", (f"{rest.strip()}.",), "completion", str(number)))
    return found


def random_pair(folder: Path, vocabulary: int) -> Sides:
    """Two models that no one trained, of 4 layers and hidden size 256, with the bundled tokenizer."""
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "base")
    for name, seed in (("base", 0), ("tuned", 1)):
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "base", folder / "tuned"


def ours(models: Sequence[CausalModel], texts: Sequence[Scored]) -> list[list[float]]:
    """The sums of both sides."""
    found: list[ComparedText] = compare(models[0], models[1], texts)
    return [[text.base.total for text in found], [text.tuned.total for text in found]]


def theirs(models: Sequence[Any], asked: Sequence[Probe]) -> list[list[float]]:
    """The same by lm-eval."""
    requests = [
        Instance("loglikelihood", {}, (str(p.prompt), str(p.completions[0])), n) for n, p in enumerate(asked)
    ]
    return [[total for total, _ in m.loglikelihood(requests, disable_tqdm=True)] for m in models]


def measured(sides: Sides, count: int, rounds: int) -> str:
    """A row: tokens scored a second by either, and the ratio within each round."""
    asked = probes(count)
    tokenizer = open_tokenizer(sides[0])
    texts = [Scored(text.ids, text.scored_from) for text in encode(asked, tokenizer).texts]
    tokens = 2 * sum(len(text.ids) - text.start for text in texts)
    checkpoints = [open_checkpoint(side) for side in sides]
    models = [open_model(c, checkpoints[0], torch.device("cpu")) for c in checkpoints]
    harness = [
        HFLM(str(side), device="cpu", dtype="float32", batch_size=BATCH, tokenizer=tokenizer.native)
        for side in sides
    ]
    off = _furthest(ours(models, texts), theirs(harness, asked))
    if off > 1e-2:
        sys.exit(f"the sums differ by {off:.3g} nats: what is timed is not the same")
    pairs = [
        (_seconds(lambda: ours(models, texts)), _seconds(lambda: theirs(harness, asked))) for _ in range(rounds)
    ]
    speeds = [tokens / median(column) for column in zip(*pairs, strict=True)]
    ratios = ", ".join(f"{b / a:.2f}" for a, b in pairs)
    return f"| {models[0].vocabulary:,} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratios} | {off:.1e} |"


def _furthest(first: list[list[float]], second: list[list[float]]) -> float:
    pairs = (pair for one, other in zip(first, second, strict=True) for pair in zip(one, other, strict=True))
    return max(abs(a - b) for a, b in pairs)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    print("| vocabulary | ours, tokens a second | lm-eval | ratio, by round | sums differ by, nats |")
    print("|---|---|---|---|---|")
    print(measured((FIXTURES / "base", FIXTURES / "rlvr"), given.texts, given.rounds))
    with TemporaryDirectory() as name:
        print(measured(random_pair(Path(name), given.vocabulary), given.texts, given.rounds))


if __name__ == "__main__":
    main()
