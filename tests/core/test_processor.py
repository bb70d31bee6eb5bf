"""What is known of this machine's CPU, and oneDNN wherever TensorFlow is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.cli._machine import describe
from qmri_lake.core import processor
from tests.conftest import needs

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
X86 = "processor : 0\nmodel name : bf16 of a name\nflags : fpu sse4_2 {}\n\nprocessor : 1\n"


@pytest.fixture(autouse=True)
def _read_anew():
    processor._flags.cache_clear()
    yield
    processor._flags.cache_clear()


@pytest.mark.parametrize(
    ("text", "name", "bfloat16"),
    [
        (X86.format(""), "SSE4.2", False),
        (X86.format("avx avx2 avx_vnni"), "AVX2", False),
        (X86.format("avx avx2 avx512f avx512_vnni"), "AVX-512", False),
        (X86.format("avx avx2 avx512f avx512_bf16"), "AVX-512", True),
        (X86.format("avx2 avx512f amx_bf16 amx_tile amx_int8"), "AMX", True),
        ("processor\t: 0\nFeatures\t: fp asimd crc32\n", "NEON", False),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\n", "SVE", True),
    ],
)
def test_instruction_set__of_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, bfloat16: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    assert (processor.instruction_set(), processor.has_bfloat16()) == (name, bfloat16)


def test_instruction_set__unknown_where_nothing_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(processor.platform, "system", lambda: "Windows")
    monkeypatch.setattr(processor.platform, "machine", lambda: "AMD64")
    assert processor.instruction_set() == "unknown instructions"
    assert not processor.has_bfloat16()
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    assert processor.instruction_set() == "NEON"


def test_describe__says_instructions_and_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv(ONEDNN, "1")
    said = describe()
    assert said.startswith("CPU with AVX2, ")
    assert "no bfloat16" in said
    assert "segmentation by tensorflow + oneDNN, classifiers by torch" in said
    monkeypatch.setenv(ONEDNN, "0")
    assert "tensorflow without oneDNN" in describe()
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert "segmentation by torch, " in describe()


_ASKED = """
import os, qmri_lake as ql
from qmri_lake.segmentation.models.backend import keras
keras()
from tensorflow.python.util import _pywrap_util_port as port
print(os.environ["TF_ENABLE_ONEDNN_OPTS"], port.IsMklEnabled())
"""


@needs("tensorflow")
@pytest.mark.parametrize(("given", "said"), [(None, "1 True"), ("0", "0 False")])
def test_tensorflow__computes_by_onednn_unless_told_otherwise(given: str | None, said: str) -> None:
    rest = {name: value for name, value in os.environ.items() if name != ONEDNN}
    done = subprocess.run(
        [sys.executable, "-c", _ASKED],
        capture_output=True,
        text=True,
        check=True,
        env={**rest, **({} if given is None else {ONEDNN: given})},
    )
    assert done.stdout.split() == said.split()


@pytest.mark.slow
def test_workers__have_onednn_too() -> None:
    with ql.cluster("cpu") as client:
        assert set(client.run(os.environ.get, ONEDNN).values()) == {os.environ[ONEDNN]}
