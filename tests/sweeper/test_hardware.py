"""Visible GPUs are found without a driver. A GPU's peak rate is known by name, or not at all."""

from pathlib import Path

import pytest

from sweeper.hardware import installed_gpu, peak_flops, visible_gpus


@pytest.mark.parametrize(("variable", "names"), [("2,GPU-5a", ["2", "GPU-5a"]), ("0", ["0"]), ("", [])])
def test_visible_gpus_are_those_of_the_variable(monkeypatch: pytest.MonkeyPatch, variable, names) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/dev/nvidia0")])
    assert visible_gpus() == names


@pytest.mark.parametrize("devices", [0, 3])
def test_without_the_variable_every_device_file_is_a_gpu(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "glob", lambda *_: [Path(f"/dev/nvidia{i}") for i in range(devices)])
    assert visible_gpus() == [str(i) for i in range(devices)]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A10", None),
        ("NVIDIA L4", None),
    ],
)
def test_an_unknown_gpu_has_no_peak_rate(name, peak) -> None:
    assert peak_flops(name) == peak


def test_the_installed_gpu_is_read_from_the_drivers_own_file(tmp_path: Path) -> None:
    assert installed_gpu(tmp_path) is None
    card = tmp_path / "0000:18:00.0"
    card.mkdir()
    (card / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 123\n")
    assert installed_gpu(tmp_path) == "NVIDIA H100 80GB HBM3"
