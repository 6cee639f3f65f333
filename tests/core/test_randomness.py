"""Numbers as functions of their coordinates, beside SplitMix64 in Python's own integers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ablate.core import randomness

MASK = (1 << 64) - 1
KEYS = (0, 1, -1, 12345678901234567, -(1 << 63), (1 << 63) - 1)


def splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def expected(key: int, index: int, position: int) -> int:
    return splitmix(splitmix(splitmix(index & MASK) ^ (key & MASK)) ^ splitmix(position))


@pytest.mark.parametrize("key", KEYS)
def test_bits_are_those_of_splitmix(key: int) -> None:
    index = torch.tensor([0, 3, 49_999])
    made = randomness.bits(key, index, (2, 3))
    assert made.shape == (3, 2, 3)
    wanted = [[expected(key, i, position) for position in range(6)] for i in index.tolist()]
    assert [[bits & MASK for bits in row] for row in made.flatten(1).tolist()] == wanted
    assert index.tolist() == [0, 3, 49_999]  # what is hashed in place is ours


def test_rows_of_many_keys_are_those_of_each() -> None:
    keys, index = torch.tensor(KEYS), torch.arange(7)
    together = randomness.rows(keys[:, None], index[None, :])
    for key, row in zip(KEYS, together, strict=True):
        assert torch.equal(randomness.bits_of(row, (3, 2)), randomness.bits(key, index, (3, 2)))
        assert torch.equal(randomness.uniform_of(row), randomness.uniform(key, index))
        assert torch.equal(randomness.normal_of(row, (5,)), randomness.normal(key, index, (5,)))
    for place, row in enumerate(together):
        assert torch.equal(randomness.uniform_of(together, (2,))[place], randomness.uniform_of(row, (2,)))
        assert torch.equal(randomness.permutation_of(together)[place], randomness.permutation(KEYS[place], 7))


def test_symmetric_numbers_are_the_uniform_ones_without_rounding() -> None:
    row = randomness.rows(7, torch.arange(500))
    uniform, symmetric = randomness.uniform_of(row, (40,)), randomness.symmetric_of(row, (40,))
    assert torch.equal(symmetric, 2.0 * uniform - 1.0)
    assert symmetric.min() < -0.999 and symmetric.max() > 0.999
    for scale in (8 / 255, 2 * 8 / 255, 0.3):
        assert torch.equal(randomness.symmetric_of(row, (40,), scale), scale * symmetric)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("result", randomness.RESULTS)
def test_the_kernel_for_gpus_says_the_same_as_torch(result: str, tmp_path: Path) -> None:
    kernel = randomness.KERNEL.replace("RESULT", randomness.RESULTS[result])
    source = f"""{kernel}
extern "C" void all(const long long* row, const long long* position, long long* out, long n) {{
    for (long i = 0; i < n; i++) out[i] = hashed<long long>(row[i], position[i]);
}}"""
    (tmp_path / "kernel.cpp").write_text(source)
    command = ["g++", "-O2", "-fsanitize=undefined", "-fno-sanitize-recover", "-shared", "-fPIC", "-o", "kernel.so"]
    subprocess.run([*command, "kernel.cpp"], cwd=tmp_path, check=True)
    row, position = randomness.rows(5, torch.arange(4000)), randomness.positions(4000, torch.device("cpu"))
    row[:6] = torch.tensor(KEYS)
    out = torch.empty_like(row)
    pointers = [ctypes.cast(each.data_ptr(), ctypes.POINTER(ctypes.c_longlong)) for each in (row, position, out)]
    ctypes.CDLL(str(tmp_path / "kernel.so")).all(*pointers, ctypes.c_long(len(row)))
    assert torch.equal(out, randomness.hashed(row, position, result))


def test_a_kernel_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def kernel(row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        asked.append((len(row), position.shape[1]))
        return randomness.hashed(row, position, "bits")

    index, wanted = torch.arange(5), randomness.bits(9, torch.arange(5), (3, 4))
    monkeypatch.setattr(randomness, "kernel_of", lambda device, result: kernel)
    assert torch.equal(randomness.bits(9, index, (3, 4)), wanted)
    assert asked == [(5, 12)]
