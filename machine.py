"""What a run needs of the machine, on Linux, Windows and macOS: TensorFlow, process and disk."""

import builtins
import contextlib
import errno
import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path


class RunError(Exception):
    """A run cannot begin or go on, for a reason that its text tells in one line."""


# The project's code


def digests_of_code():
    """Return the SHA-256 of the files that make a result, in hexadecimal, by their names."""
    names = "models.py", "data.py", "train.py", "runs.py", "machine.py"
    files = {name: Path(__file__).with_name(name).read_bytes() for name in names}
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


# When the first module was imported: the others import this one before all else. What a kernel
# trains with is this code, whatever becomes of the files.
LOADED_CODE = digests_of_code()


def changed_files(there, here):
    """Name the files in which two results of `digests_of_code` differ, a string."""
    return ", ".join(name for name in {**there, **here} if there.get(name) != here.get(name))


def refuse_edited_code():
    """Raise a `RunError` if a file of the project is not what this process has loaded."""
    changed = changed_files(LOADED_CODE, digests_of_code())
    if changed:
        raise RunError(
            f"{changed} changed after this process had loaded the project; begin a new one "
            "(in a notebook, restart the kernel)"
        )


@contextlib.contextmanager
def explain_missing_package():
    """End the program with one line where a package that is imported in here is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"{error}; install it by {sys.executable} -m pip install -r requirements.txt")


# TensorFlow, and what it computes on


def start_tensorflow():
    """Import TensorFlow for a run: by the project's settings, without its log.

    The networks are the same whatever a user's own settings say: Keras is shown no keras.json
    (another backend, channels_first, float16 or another epsilon would change them) and none of
    the KERAS_ variables (KERAS_MAX_EPOCHS would cut a run short).

    Raises:
        RunError: it has no room to start, or runs in this process already by other settings.
        SystemExit: it is not installed.
    """
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    os.environ["KERAS_HOME"] = os.devnull
    # By itself TensorFlow turns it on only where there is AVX-512 VNNI or BF16, AVX-VNNI or AMX.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules:
        # What it was started by counts, whatever is set later.
        if getattr(sys.modules["tensorflow"], "started_by", None) != environment():
            raise RunError(
                "TensorFlow runs in this process already, and not by the settings of a run; begin "
                "a new one (in a notebook, restart the kernel), and train in it before all else"
            )
        return
    try:
        with explain_missing_package(), _without_log():
            import_matplotlib()  # Keras imports it, too
            import tensorflow as tf

            tf.config.list_logical_devices()
        if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3":
            tf.get_logger().setLevel("ERROR")  # on Windows it warns of what Keras 3.15 calls
    except OSError as error:  # its import wants a temporary directory with room
        raise RunError(f"cannot start TensorFlow: {error}") from error
    tf.started_by = environment()


LOG_FILTER = r"""
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
log = re.compile(rb"[IWE]\d{4} |WARNING: All log messages before|To enable the following instr")
for line in sys.stdin.buffer:
    if not log.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
"""


@contextlib.contextmanager
def _without_log():
    """Keep TensorFlow's log from standard error, but not what it says when it aborts.

    TensorFlow 2.21 logs a dozen lines before TF_CPP_MIN_LOG_LEVEL counts. They are dropped by a
    process of its own, which still tells all else when this one has died.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] != "3":  # the user wants to see it
        yield
        return
    command = [sys.executable, "-I", "-S", "-c", LOG_FILTER]
    stderr = os.dup(2)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as log_filter:
        os.dup2(log_filter.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def environment():
    """Return the environment variables that may change the bits of a result."""
    # Not all of TF_, which is Terraform's prefix, too.
    tensorflow = "ENABLE", "NUM", "XLA", "SET", "USE", "CUDNN", "DETERMINISTIC"
    others = "XLA_FLAGS", "ONEDNN_", "DNNL_", "OMP_", "NVIDIA_TF32_"
    prefixes = (*(f"TF_{name}_" for name in tensorflow), *others)
    logs = "ONEDNN_VERBOSE", "DNNL_VERBOSE"
    names = [name for name in os.environ if name.startswith(prefixes) and not name.startswith(logs)]
    return {name: os.environ[name] for name in sorted(names)}


def versions():
    """Return the versions of TensorFlow and Keras, a dict of strings."""
    import keras
    import tensorflow as tf  # under whatever name it was installed: tensorflow-cpu, for one

    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def device():
    """Return the GPU, or the processor and how many of its cores may be used.

    The last bits of a result may depend on all that it names. Of a processor these are, as far
    as the system tells them, its name, vendor, family and model, and the instruction set that
    oneDNN uses for float32 if `environment` does not limit it.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        gpu = tf.config.get_visible_devices("GPU")[0]
        return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores left by taskset or Slurm
    cores = len(affinity(0)) if affinity else os.cpu_count() or "unknown"
    return f"{_processor()}, {_instruction_set()}, {cores} cores"


def _processor():
    fields = {}
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    x86 = "vendor_id", "cpu family", "model"
    arm = "CPU implementer", "CPU architecture", "CPU variant", "CPU part"
    numbers = " ".join(f"{name} {fields[name]}" for name in (*x86, *arm) if name in fields)
    name = fields.get("model name", platform.processor() or platform.machine())
    return f"{name} ({numbers})" if numbers else name


def _instruction_set():
    from numpy._core._multiarray_umath import __cpu_features__ as features

    sets = {"AVX512_SKX": "AVX-512", "AVX2": "AVX2", "AVX": "AVX", "SSE41": "SSE4.1", "SVE": "SVE"}
    return next((name for feature, name in sets.items() if features.get(feature)), "no SIMD known")


# The process


def import_matplotlib():
    """Import Matplotlib, also where a notebook has set its backend.

    A notebook hands MPLBACKEND on to the programs that it starts; where what it names is not
    installed, Matplotlib 3.10.9 cannot be imported. No program here needs a backend.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def run_as_program(main, remark=""):
    """Call `main` as a program of its own; whatever stops it is told in one line.

    Under IPython's `%run` it is called and no more: streams and signals are the notebook's.

    Args:
        main: a function without arguments.
        remark: what to say after "stopped by Ctrl-C", for instance.
    """
    if hasattr(builtins, "__IPYTHON__"):
        main()
        return
    _open_closed_streams()
    if hasattr(sys.stdout, "reconfigure"):  # IDLE's has not
        # A line is there when it is printed; a character that cannot be shown, as "?".
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    try:
        main()
        sys.stdout.flush()  # a full disk or a closed pipe under it is told here
    except KeyboardInterrupt:
        line = f"stopped by Ctrl-C{remark and f'; {remark}'}"
        print(f"\n{line}" if sys.stdout.isatty() else line, file=sys.stderr, flush=True)
        os._exit(130)  # nothing is to be cleaned up: a run survives SIGKILL just the same
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # or Python tells at its end once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"{Path(sys.argv[0]).name}: stopped by {error}")


def _open_closed_streams():
    """Give a process that was begun without standard streams (`>&-`, pythonw) some to nowhere.

    Else the next file that is opened, a state perhaps, takes the place of standard output, and
    what TensorFlow prints goes into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


# The disk


@contextlib.contextmanager
def locked(file, what):
    """Keep other processes from `what`; the lock goes with this one, however it ends.

    Args:
        file: the `Path` of the lock, a file of its own that is there while it is held.
        what: what a process does that holds the lock, for the message to others.

    Raises:
        RunError: another process has the lock, or the disk has no locks.
    """
    import filelock

    lock = filelock.FileLock(file, blocking=False)
    try:
        lock.acquire()
    except (filelock.Timeout, OSError) as error:
        # Wine 10 does not tell why a lock is refused, as Windows does.
        if isinstance(error, filelock.Timeout) or error.errno == 0:
            raise RunError(f"another process is {what}") from error
        reason = f"{error.strerror or error}; choose an --output on a disk that has locks"
        raise RunError(f"cannot lock {file}: {reason}") from error
    try:
        yield
    finally:
        # While it is held: filelock looks whether what it has just locked is still there. Windows
        # removes no open file, but there filelock does it itself.
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()


def replace(old, new):
    """Rename a file or directory, in place of another if there is one, as `os.replace`.

    On Windows a virus scanner may have either open, for a moment: then it is tried again.

    Raises:
        OSError: it could not be renamed.
    """
    for seconds in (0.02, 0.1, 0.5, 1):
        try:
            return os.replace(old, new)
        except PermissionError:
            time.sleep(seconds)
    return os.replace(old, new)


def sync(path):
    """Bring a file, or the names in a directory, to the disk, where the system can do that.

    Raises:
        OSError: it can, and failed.
    """
    try:
        # Windows syncs only what is open for writing, and opens no directories.
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some shares cannot, and each has its own word for it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
