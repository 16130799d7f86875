"""The data of the targets that XLA compiles for, and what the command line says of them."""

import json
from pathlib import Path

import pytest
from tilewright.passes.quantize.base import Capability
from tilewright.selection import every_target, find_backend
from tilewright.target import Target

from tests.cli.conftest import tilewright

TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
FOLDER = Path(__file__).parents[2] / "backends" / "xla" / "targets"


def target(name: str) -> Target:
    return find_backend("tpu", build=False).targets()[f"tpu:{name}"]


@pytest.mark.parametrize("name", TPUS)
def test_a_tpu_is_whole(name: str) -> None:
    t = target(name)
    hbm, ahead = t.memory["hbm"], t.extra["ahead"]
    assert list(t.memory)[-1] == "hbm", "the last level is the one that programs stream from"
    assert 1e11 < hbm.bandwidth < 1e13
    assert 0.9 < ahead["available"] / hbm.size < 1.01, "nearly all of HBM is for programs"
    passes = t.extra["precision"]["passes"]
    assert passes == {"DEFAULT": 1, "HIGH": 3, "HIGHEST": 6}
    assert t.peak["f32"] == pytest.approx(t.peak["bf16"] / passes["HIGHEST"], rel=1e-3)
    assert t.peak["i8"] >= t.peak["bf16"]
    assert ahead["topologies"][0] == [1] * len(ahead["topologies"][0])
    assert t.host.startswith("cpu:")
    assert "bf16" in Capability.of(t).floats


@pytest.mark.parametrize("name", TPUS)
def test_every_rate_and_size_has_a_source(name: str) -> None:
    table = ""
    for line in (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif table in ("memory", "peak") and "=" in line.partition("#")[0]:
            comment = line.partition("#")[2]
            said = ("[cloud]", "[pallas]", "https://", "derived", "assumed", "likewise")
            assert any(word in comment for word in said), line


def test_the_published_rates_of_a_chip() -> None:
    """Those of the tables of Cloud TPU: bf16 operations and HBM bytes a second, of a chip."""
    published = {
        "v4": (275e12, 1200e9),
        "v5e": (197e12, 819e9),
        "v5p": (459e12, 2765e9),
        "v6e": (918e12, 1638e9),
        "tpu7x": (2307e12, 7380e9),
    }
    for name, (rate, bandwidth) in published.items():
        t = target(name)
        devices = t.extra["ahead"]["devices_per_chip"]
        assert t.peak["bf16"] * devices == pytest.approx(rate)
        assert t.memory["hbm"].bandwidth * devices == pytest.approx(bandwidth)


def test_targets_are_listed_once(tmp_path: Path) -> None:
    told = tmp_path / "targets.json"
    done = tilewright("targets", "--json", told)
    assert done.returncode == 0, done.stderr
    spellings = [line.split()[0] for line in done.stdout.splitlines()]
    assert spellings == [t.spelling for t in every_target()]
    assert {*(f"tpu:{name}" for name in TPUS), "xla:cpu", "xla:cuda"} <= set(spellings)
    listed = json.loads(told.read_text(encoding="utf-8"))["targets"]
    assert listed["tpu:v5e"]["memory"]["hbm"]["bandwidth"] == 8.19e11


def test_doctor_looks_for_what_compiles_for_tpus() -> None:
    done = tilewright("doctor")
    lines = {line[8:].split()[0]: line for line in done.stdout.splitlines()}
    assert {"jaxlib", "libtpu", "tpu"} <= set(lines)
    assert lines["tpu"].startswith(("ok", "absent"))
