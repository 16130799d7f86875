"""Parts for Ascend of a hostile writer, with every hash right: reading and exporting end well or with an error."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from tilewright.plan.decode import checked_plan, decode_plan
from tilewright.plan.encode import NONE
from tilewright.runtime import ArtifactError

from tests.ascend.test_target import artifact, invoke
from tests.runtime.rewrite import members, rewrite

PART = "ascend/910b3"
#: What may stand in the place of anything in a list of launches.
VALUES: tuple[Any, ...] = (
    None, True, -1, 1.5, float("inf"), float("nan"), 10**400, 2**63, "", "../x", "a\nb", "9" * 5000, [], {}, [[]],
    [["a"]], [["a", "tensor", "b"]], {"a": 1}, [["a", "tensor"]] * 1000,
)  # fmt: skip
#: Words of a plan where counts, indices and links stand.
WORDS = (0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, NONE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("hostile") / "m.tw"
    artifact("ascend").save(path)
    return path.read_bytes()


def outcome(data: bytes, folder: Path) -> set[int]:
    """Exit codes of what reads and exports an artifact."""
    path = folder / "bad.tw"
    path.write_bytes(data)
    out = folder / "out"
    words = (("inspect", path), ("inspect", path, "--plan"), ("export", path, "--as", "dir", "-o", out))
    results = [invoke(*w) for w in words]
    assert all(r.exit_code in (0, ArtifactError.exit_code) for r in results), [r.output[-300:] for r in results]
    return {r.exit_code for r in results}


@pytest.mark.parametrize("seed", range(2))
def test_changed_launches(data: bytes, tmp_path: Path, seed: int) -> None:
    told, generator = json.loads(members(data)[f"{PART}/launches.json"]), random.Random(seed)
    codes: set[int] = set()
    for n in range(6):
        changed = json.loads(json.dumps(told))
        launch = generator.choice(changed)
        launch[generator.choice(list(launch))] = generator.choice(VALUES)
        (tmp_path / str(n)).mkdir()
        codes |= outcome(rewrite(data, {f"{PART}/launches.json": json.dumps(changed).encode()}), tmp_path / str(n))
    assert ArtifactError.exit_code in codes


@pytest.mark.parametrize("seed", range(2))
def test_changed_plans(data: bytes, tmp_path: Path, seed: int) -> None:
    plan, generator = members(data)[f"{PART}/plan.bin"], random.Random(seed)
    codes: set[int] = set()
    for n in range(6):
        changed = bytearray(plan)
        at = 16 + 4 * generator.randrange(struct.unpack_from("<I", plan, 8)[0])
        struct.pack_into("<I", changed, at, generator.choice(WORDS))
        (tmp_path / str(n)).mkdir()
        codes |= outcome(rewrite(data, {f"{PART}/plan.bin": bytes(changed)}), tmp_path / str(n))
    assert ArtifactError.exit_code in codes


@pytest.mark.parametrize("text", ["null", "[1]", "7", '{"common": 3}', '{"common": ["x"]}', "{"])
def test_changed_options_of_the_host_part(data: bytes, tmp_path: Path, text: str) -> None:
    assert ArtifactError.exit_code in outcome(rewrite(data, {f"{PART}/host/options.json": text.encode()}), tmp_path)


@pytest.mark.parametrize("models", [True, [3], [None], "x", {"a": 1}])
def test_a_changed_provenance_is_no_reason_to_fail(data: bytes, tmp_path: Path, models: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["provenance"] |= {"models": models, "tools": models}

    assert outcome(rewrite(data, {}, edit), tmp_path) == {0}


def test_links_of_a_plan_are_looked_at_before_they_are_followed(data: bytes) -> None:
    """A view of itself has no memory, and who looks for it does not come back."""
    plan = members(data)[f"{PART}/plan.bin"]
    bases = {n for e in decode_plan(plan).entries for n, b in enumerate(e.buffers) if b.base is None}
    refused = 0
    for at in range(16, len(plan) - 3, 4):
        if struct.unpack_from("<I", plan, at)[0] == NONE:
            changed = bytearray(plan)
            struct.pack_into("<I", changed, at, max(bases))
            try:
                checked_plan(bytes(changed))
            except ValueError as error:
                refused += "a view comes after its base" in str(error)
    assert refused
