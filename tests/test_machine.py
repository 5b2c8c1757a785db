"""What a run needs of the machine, under the circumstances of its users."""

import builtins
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from helpers import (
    NIN,
    PROJECT,
    environment,
    long_run,
    posix,
    python_path,
    run_main,
)

import machine

# The device


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_device_counts_the_cores_that_may_be_used():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert machine.device()[:1].isalnum() and machine.device().endswith(", 1 cores")
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("details", "name"),
    [({"device_name": "NVIDIA GTX 1060"}, "NVIDIA GTX 1060"), ({}, "/physical_device:GPU:0")],
)
def test_device_names_the_gpu_that_is_used(details, name, monkeypatch):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    for function, result in (
        ("list_logical_devices", ["a GPU"]),
        ("get_visible_devices", [gpu]),
        ("experimental.get_device_details", details),
    ):
        monkeypatch.setattr(f"tensorflow.config.{function}", lambda device, r=result: r)
    assert machine.device() == name


EPYC = """processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 17
model name	: AMD EPYC

processor	: 1
model		: 1
"""
NEOVERSE = """processor	: 0
BogoMIPS	: 243.75
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
"""


@pytest.mark.parametrize(
    ("system", "cpuinfo", "expected"),
    [
        ("linux", EPYC, "AMD EPYC (vendor_id AuthenticAMD cpu family 25 model 17)"),
        (
            "linux",
            NEOVERSE,
            "aarch64 (CPU implementer 0x41 CPU architecture 8 CPU variant 0x3 CPU part 0xd0c)",
        ),
        ("win32", None, "AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD"),
    ],
)
def test_processors_of_other_bits_have_other_names(system, cpuinfo, expected, monkeypatch):
    """Of a Linux on x86, one on ARM, which tells no name, and of Windows, which has no /proc."""
    names = {"linux": "", "win32": expected}
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "processor", lambda: names[system])
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(machine.Path, "read_text", lambda path: cpuinfo)
    assert machine._processor() == expected


CONVOLUTION = """
import machine
machine.start_tensorflow()
import tensorflow as tf
tf.nn.conv2d(tf.ones((1, 28, 28, 50)), tf.ones((3, 3, 50, 50)), 1, "SAME")
print(machine.device())
"""
ONEDNNS_NAMES = {"Intel AVX-512 with": "AVX-512", "Intel AVX2": "AVX2", "Intel SSE4.1": "SSE4.1"}


def convolve(**environ):
    """Let oneDNN compute in a process of its own; return its instruction set, and the device."""
    environ = environment(PYTHONPATH=str(PROJECT), ONEDNN_VERBOSE="1", **environ)
    command = [sys.executable, "-c", CONVOLUTION]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    (told,) = re.findall("cpu,isa:(.*)", done.stdout)
    (name,) = (name for theirs, name in ONEDNNS_NAMES.items() if told.startswith(theirs))
    return name, done.stdout.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="oneDNN tells it on x86 and Linux")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN tells it on x86 and Linux")
def test_the_instruction_set_is_the_one_that_onednn_uses():
    told, device = convolve()
    assert f", {told}, " in device == machine.device()
    assert convolve(ONEDNN_MAX_CPU_ISA="SSE41") == ("SSE4.1", device)  # the limit is no device


# The environment


def test_environment_is_what_may_change_bits(monkeypatch):
    """And nothing else, not even of Terraform, whose variables begin with TF_, too."""
    names = {
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "DNNL_MAX_CPU_ISA": "SSE41",
        "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
        "TF_SET_ONEDNN_FPMATH_MODE": "BF16",
        "TF_CUDNN_USE_AUTOTUNE": "0",
        "TF_DETERMINISTIC_OPS": "1",
        "NVIDIA_TF32_OVERRIDE": "1",
    }
    others = "TF_VAR_password", "TF_CLI_CONFIG_FILE", "ONEDNN_VERBOSE", "TF_CPP_MAX_VLOG_LEVEL"
    for name in [name for name in os.environ if name.startswith(("TF_", "ONEDNN_", "OMP_"))]:
        monkeypatch.delenv(name)
    for name, value in {**names, **dict.fromkeys(others, "1")}.items():
        monkeypatch.setenv(name, value)
    assert machine.environment() == names


@pytest.mark.parametrize("case", ["started by somebody else", "set after it was started"])
def test_a_tensorflow_of_other_settings_is_told_in_one_line(case, tmp_path, monkeypatch):
    """What `metrics.json` would say had not counted."""
    if case == "started by somebody else":
        monkeypatch.delattr(tf, "started_by")
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    code, output, errors = run_main(NIN, "--epochs", 1, "--output", tmp_path)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "TensorFlow runs in this process already" in errors and "restart the kernel" in errors
    assert list(tmp_path.iterdir()) == []


# The process


def test_the_users_own_log_level_shows_tensorflows_log():
    environ = environment(PYTHONPATH=python_path(PROJECT))
    environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # by default nothing is shown, as other tests see
    command = [sys.executable, "-c", "import machine; machine.start_tensorflow()"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stderr


def test_versions_are_those_of_what_is_imported(monkeypatch):
    """Whatever it was installed as: tensorflow-cpu, for one."""

    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert machine.versions() == {"tensorflow": tf.__version__, "keras": keras.__version__}


# How Python is started, and with which streams

STARTS = {
    "profiled": "-m cProfile {} {}",
    "debugged": "-m pdb -c continue -c quit {} {}",
    "interactive": "-i {} {}",
    "no output": "{} {} >&-",
    "no errors": "{} {} 2>&-",
}


@posix
@pytest.mark.parametrize("case", STARTS)
def test_a_program_runs_however_it_is_started(case, tmp_path):
    run_dir = long_run(tmp_path / "run")
    command = STARTS[case].format(PROJECT / "plot.py", run_dir)
    done = subprocess.run(
        f"exec {sys.executable} {command}",
        shell=True, check=False, env=environment(PYTHONSAFEPATH="1"),
        input="", capture_output=True, text=True,
    )  # fmt: skip
    drawn = [f"{run_dir / name}\n" for name in ("errors.png", "accuracy.png")]
    assert done.returncode == 0 and "Error" not in done.stderr
    assert all(line in done.stdout for line in drawn) == (case != "no output")
    assert all((run_dir / name).exists() for name in ("errors.png", "accuracy.png"))


@posix
def test_what_is_printed_without_streams_goes_into_no_file(tmp_path):
    """Whose number would be that of standard output, or of error."""
    (tmp_path / "program.py").write_text(
        "import os, sys, machine\n"
        "def main():\n"
        "    with open('file', 'w') as file, open('other', 'w'):\n"
        "        file.write('its own')\n"
        "        print('printed')\n"
        "        os.write(1, b'by TensorFlow'), os.write(2, b'by TensorFlow')\n"
        "machine.run_as_program(main)\n"
    )
    command = f"exec {sys.executable} program.py <&- >&- 2>&-"
    env = environment(PYTHONPATH=python_path(PROJECT))
    assert subprocess.run(command, shell=True, check=False, cwd=tmp_path, env=env).returncode == 0
    assert [(tmp_path / name).read_text() for name in ("file", "other")] == ["its own", ""]


class PlainStream:
    """What the streams of IPython and of IDLE have of a file's."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_in_idle_a_program_runs_with_its_streams(monkeypatch):
    stream = PlainStream()
    monkeypatch.setattr(sys, "stdout", stream)
    machine.run_as_program(lambda: print("done"))
    assert stream.text == "done\n"


def test_in_a_notebook_streams_and_signals_stay_as_they_are(monkeypatch):
    """As for `%run train.py`."""
    stream = PlainStream()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    machine.run_as_program(lambda: print("done"))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    print("not closed")
    assert stream.text == "done\nnot closed\n"
