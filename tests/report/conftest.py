"""Results to render: a small pair measured for real, and large ones of made-up numbers, for size alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.config import Config
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.judging.verdict import Verdict
from ckptaudit.metrics import Measurement
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import assemble, execute, judge, open_audit, plan
from ckptaudit.pipeline.assembly import curves
from ckptaudit.report.html import write_html
from ckptaudit.results.records import AuditResult, CheckRecord, check_record
from ckptaudit.results.summary import Summary
from tests.conftest import program

HARMLESS = "placeholder"
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>\u2028"
ROLES = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}


@pytest.fixture(scope="session")
def hostile_name() -> str:
    """A tensor's name that would run a script wherever it is not escaped."""
    return _named(HOSTILE)


@pytest.fixture(scope="session")
def small_result(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    """Three layers, a gentle run and one whose spectra grew by a tenth in layer 1.

    One name is an attack. No checkpoint with such a name is opened, but a JSON file can be written by anyone.
    """
    folder = tmp_path_factory.mktemp("pair")
    random = torch.Generator().manual_seed(0)
    names = [f"model.layers.{i}.{part}.{role}.weight" for i in range(3) for role, part in ROLES.items()]
    base = {name: torch.randn(32, 48, generator=random).bfloat16() for name in [*names, _named(HARMLESS)]}
    base |= {f"model.layers.{i}.input_layernorm.weight": torch.ones(48).bfloat16() for i in range(3)}
    gentle = {k: _nudged(v, random) for k, v in base.items()}
    grown = {k: v * 1.1 if ".layers.1." in k else v for k, v in gentle.items()}
    for side, tensors in (("base", base), ("gentle", gentle), ("grown", grown)):
        (folder / side).mkdir()
        save_file(tensors, folder / side / "model.safetensors")
    tuned = (str(folder / "grown"), str(folder / "gentle"))
    # Exact: what a reader of the page is told must be numbers and not bounds.
    opened = open_audit(AuditOptions(base=str(folder / "base"), tuned=tuned, device="cpu", exact=True))
    planned = plan(opened, [load_checks(bundled_checks() / "rlvr.toml")], Config())
    measurements = execute(planned)
    verdicts = judge(planned, measurements)
    result = assemble(opened, planned, verdicts, measurements, spectra=curves(opened, verdicts))
    text = msgspec.json.encode(result)
    hostile = msgspec.json.encode(HOSTILE)[1:-1]
    return msgspec.json.decode(text.replace(HARMLESS.encode(), hostile), type=AuditResult)


@pytest.fixture(scope="session")
def seven_billion() -> AuditResult:
    """As large as the audit of a 7B model: 28 layers, 7 roles, every metric of the profile."""
    return _made_up(layers=28, experts=0)


@pytest.fixture(scope="session")
def many_experts() -> AuditResult:
    """As large as the audit of a 61-layer model with 256 experts a layer."""
    return _made_up(layers=61, experts=256)


@pytest.fixture(scope="session")
def many_experts_page(many_experts: AuditResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page, written once."""
    path = tmp_path_factory.mktemp("large") / "report.html"
    write_html(many_experts, path)
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One headless Chromium for all tests; see `program`."""
    # Debian's chromium and chromium-driver.
    chromium, driver = program("chromium"), program("chromedriver")
    chrome = Chrome(options=_options(chromium, tmp_path_factory.mktemp("profile")), service=Service(driver))
    yield chrome
    chrome.quit()


def _options(chromium: str, profile: Path) -> Options:
    options = Options()
    options.binary_location = chromium
    quiet = ("disable-background-networking", "disable-component-update", "disable-sync", "disable-quic")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "hide-scrollbars", *quiet):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return options


def _named(word: str) -> str:
    return f"model.layers.0.mlp.{word}.weight"


def _nudged(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    where = torch.rand(tensor.shape, generator=random) < 0.05
    return torch.where(where, tensor.float() * (1 + 4e-3), tensor.float()).bfloat16()


def _made_up(*, layers: int, experts: int) -> AuditResult:
    """Rows without a measurement behind them: what they are for is their number."""
    checks = tuple(check_record(c, "rlvr.toml") for c in load_checks(bundled_checks() / "rlvr.toml").checks)
    metrics = sorted({check.metric for check in checks} | {f"extra_metric_{i}" for i in range(4)})
    tensors = [(i, role, name) for i in range(layers) for role, name in _names(i, experts)]
    rows = tuple(
        Measurement(name, layer, role, (4096, 4096), metric, 1e-5 * (n % 977 + 1), "exact", tuned="tuned")
        for n, (layer, role, name) in enumerate(tensors)
        for metric in metrics
    )
    verdicts = tuple(_verdict(check, layer) for check in checks for layer in range(layers))
    return AuditResult(
        base="base",
        tuned=("tuned",),
        summary=Summary(passed=len(verdicts), failed=0, skipped=0, errors=0),
        unaligned=(),
        measurements=rows,
        verdicts=verdicts,
        checks=checks,
    )


def _names(layer: int, experts: int) -> list[tuple[str, str]]:
    single = [(role, f"model.layers.{layer}.{part}.{role}.weight") for role, part in ROLES.items()]
    mlp = ("gate_proj", "up_proj", "down_proj")
    routed = [(r, f"model.layers.{layer}.mlp.experts.{e}.{r}.weight") for e in range(experts) for r in mlp]
    return single[:4] + routed if experts else single


def _verdict(check: CheckRecord, layer: int) -> Verdict:
    return Verdict(
        tuned="tuned",
        check=check.id,
        subject=f"layers.{layer}",
        outcome="passed",
        worst=f"model.layers.{layer}.self_attn.q_proj.weight",
        value=check.limit,
        kind="exact",
        limit=check.limit,
        source=check.source,
        metric=check.metric,
        sign=check.sign,
    )
