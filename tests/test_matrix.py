"""The fingerprints beside the names of the matrix: what changes them, and which names a check looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fingerprints
import matrix
import pytest
from fingerprints import fingerprint

import anyoptim
from anyoptim.names import registry

SOME = ("muon", "apollo_mini", "adamw_torch", "lookahead(adamw_torch)", "soap", "timm/lamb", "adamw_8bit", "muon+lion")


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return {name: fingerprint(name) for name in SOME}


def changed(before: dict[str, str]) -> set[str]:
    return {name for name in SOME if fingerprint(name) != before[name]}


def test_the_source_of_an_engine_changes_what_is_made_of_it(
    before: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fingerprints.source_of
    edited = "anyoptim.engines.muon"
    monkeypatch.setattr(fingerprints, "source_of", lambda module: source(module) + "#" * (module == edited))
    assert changed(before) == {"muon", "muon+lion"}
    edited = "anyoptim.engines.engine"  # which all of ours are made of
    assert changed(before) == {"muon", "muon+lion", "apollo_mini", "lookahead(adamw_torch)"}


def test_the_source_of_a_mend_changes_what_is_mended(before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = fingerprints.source_of_mend
    edited = "no_compiling_on_a_cpu"
    monkeypatch.setattr(fingerprints, "source_of_mend", lambda name: source(name) + "#" * (name == edited))
    assert changed(before) == {"soap"}


def test_the_version_of_a_package_changes_its_names(before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = fingerprints._version
    monkeypatch.setattr(fingerprints, "_version", lambda package: "9" if package == "torch" else found(package))
    assert changed(before) == {"muon", "adamw_torch", "lookahead(adamw_torch)"}  # muon's fallback is torch's AdamW


@pytest.mark.usefixtures("restored_registry")
def test_a_spec_changes_what_is_made_of_it(before: dict[str, str]) -> None:
    spec = anyoptim.optimizer_info("adamw_torch")
    try:
        anyoptim.register(replace(spec, traits=replace(spec.traits, clips_updates=True)), replace=True)
        assert changed(before) == {"adamw_torch", "lookahead(adamw_torch)"}
    finally:
        anyoptim.register(spec, replace=True)
    assert registry.known_names() and not changed(before)


def test_a_field_is_news_of_those_that_set_it() -> None:
    spec = anyoptim.optimizer_info("lion")
    assert "by_place" not in fingerprints.plain(spec)
    ours = replace(spec, implementations=tuple(replace(each, by_place=True) for each in spec.implementations))
    assert "by_place=True" in fingerprints.plain(ours)


def test_another_process_finds_the_same(before: dict[str, str]) -> None:
    program = (
        f"import json, fingerprints; print(json.dumps({{name: fingerprints.fingerprint(name) for name in {SOME}}}))"
    )
    tools = str(Path(fingerprints.__file__).parent)
    path = os.pathsep.join(filter(None, [tools, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == before


def test_a_check_looks_at_what_changed_and_at_a_sample() -> None:
    written = {name: {"fingerprint": fingerprint(name)} for name in matrix.names()}
    del written["muon"]
    written["soap"] = {"fingerprint": "another"}
    changed, sampled = matrix.changed_and_sampled({"names": written})
    assert changed == ["muon", "soap"]
    assert len(sampled) == matrix.SAMPLE == len(set(sampled)) and not set(sampled) & set(changed)
    assert matrix.changed_and_sampled({"names": written})[1] == sampled
