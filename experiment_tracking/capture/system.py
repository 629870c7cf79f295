"""What a run uses of its machine while it trains: CPU, memory, disk, network, GPUs; throughput."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from math import inf
from typing import Any, NamedTuple

Row = dict[str, int | float]

_COUNTED = (
    "cpu/percent", "process/cpu_percent", "process/read_bytes_per_s", "process/write_bytes_per_s",
    "disk/read_bytes_per_s", "disk/write_bytes_per_s", "network/received_bytes_per_s",
    "network/sent_bytes_per_s",
)  # fmt: skip
"""Rates: what is read under these names is a count since the machine or process began."""

_ALL_THREADS_EVERY = 6
"""Samples between two looks at the processes that threads other than the main one started."""

_DRIVER = "/proc/driver/nvidia"
_NO_PACKAGE = (
    "This machine has an NVIDIA GPU; to measure it, nvidia-ml-py is needed, which is not "
    "installed. Run: pip install 'experiment_tracking[gpu]'"
)


_BREATHE_BEHIND = ("memory", "process", "disk")
"""Each breath takes 0.1 ms itself, so not behind every part."""


class SystemSampler:
    """Read what the machine and this process are doing, one row of numbers a call.

    The rows have, as far as the platform tells:

    - ``cpu/percent`` (of all CPUs), ``cpu/load_1min``;
    - ``memory/used_bytes``, ``memory/available_bytes``, ``memory/percent``, of the machine;
    - ``process/cpu_percent`` (100 is one core), ``process/read_bytes_per_s`` and
      ``process/write_bytes_per_s`` (what reached a disk): this process and those it started;
    - ``process/memory_bytes`` (resident), ``process/threads``, ``process/open_files``: this
      process alone; ``process/children`` and ``process/children_memory_bytes`` (pages that they
      share are counted for each): those it started;
    - ``disk/used_percent``, ``disk/free_bytes``: of the disk that ``folder`` is on;
    - ``disk/read_bytes_per_s``, ``disk/write_bytes_per_s``, ``network/received_bytes_per_s``,
      ``network/sent_bytes_per_s``: of the machine's hardware. What goes over the loopback, or
      over InfiniBand past the kernel, is not seen;
    - ``gpu/<n>/utilization_percent``, ``gpu/<n>/memory_bytes``, ``gpu/<n>/memory_percent``,
      ``gpu/<n>/power_w``, ``gpu/<n>/temperature_c``: as NVIDIA's driver tells, of the GPUs that
      ``CUDA_VISIBLE_DEVICES`` lets this process use and in that order, so ``gpu/0`` is
      ``cuda:0``. (CUDA counts the quickest first unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``; that
      differs where a machine has several kinds.) AMD's and Apple's are not read.

    A sample takes about 0.4 ms, a child process adds 0.04 ms. Rates are means since the sample
    before; the first has none. Nothing is loaded before the first one.

    Parameters
    ----------
    folder
        Any folder on the disk to watch.

    Attributes
    ----------
    notes
        Why something is absent, a sentence each; a reading that fails is noted once.
    """

    def __init__(self, folder: str) -> None:
        self.notes: list[str] = []
        self._failed: set[str] = set()
        self._tree = _ProcessTree()
        self._parts: dict[str, Callable[[], Row]] = {
            "cpu": _cpu,
            "memory": _memory,
            "process": self._processes,
            "open files": _open_files,
            "disk": partial(_disk, folder),
            "disk traffic": _disk_traffic,
            "network traffic": _network_traffic,
        }
        self._gpus: _Gpus | None = None
        self._looked_for_gpus = False
        self._sampled_at = 0.0
        self._counts: Row = {}

    def sample(self) -> Row:
        """Read everything once. Never raises: what cannot be read is absent and noted."""
        now, row = time.monotonic(), Row()
        for what, read in self._parts.items():
            self._read(row, what, read)
            if what in _BREATHE_BEHIND:  # lets the training loop have the interpreter
                time.sleep(0)
        self._read_gpus(row)
        counts = {name: row.pop(name) for name in _COUNTED if name in row}
        row |= _rates(counts, self._counts, now - self._sampled_at)
        self._sampled_at, self._counts = now, counts
        return row

    def close(self) -> None:
        """Let go of the GPUs' driver."""
        if self._gpus:
            self._read({}, "gpu", self._gpus.close)
            self._gpus = None

    def _read(self, row: Row, what: str, read: Callable[..., Row | None], *args: Any) -> None:
        try:
            row |= read(*args) or {}
        except Exception as error:  # Capture never stops training, whatever the reason.
            if what not in self._failed:
                self._failed.add(what)
                self.notes.append(f"{what}: {type(error).__name__}: {error}")

    def _processes(self) -> Row:
        own, *children = everyone = self._tree.usages()
        cpu_s = sum(one.cpu_s for one in everyone)
        row: Row = {
            # Rounded, as the last bit of the sum may go back when a child's part changes hands.
            "process/cpu_percent": round(100 * cpu_s, 3),
            "process/memory_bytes": own.memory_bytes,
            "process/threads": own.threads,
            "process/children": len(children),
            "process/children_memory_bytes": sum(child.memory_bytes for child in children),
        }
        if own.read_bytes is not None:
            row["process/read_bytes_per_s"] = sum(one.read_bytes or 0 for one in everyone)
            row["process/write_bytes_per_s"] = sum(one.written_bytes or 0 for one in everyone)
        return row

    def _read_gpus(self, row: Row) -> None:
        if not self._looked_for_gpus:
            # Only now: a script may set CUDA_VISIBLE_DEVICES after its run has begun.
            self._looked_for_gpus = True
            self._gpus, note = _open_gpus()
            self.notes += [note] if note else []
        gpus = self._gpus  # another thread may close it meanwhile
        if gpus is None:
            return
        for number, device in enumerate(gpus.devices):
            for what, read in _GPU_READINGS.items():
                values: Row = {}
                self._read(values, f"gpu/{number} {what}", read, gpus.nvml, device)
                row |= {f"gpu/{number}/{name}": value for name, value in values.items()}


def _rates(counts: Row, before: Row, seconds: float) -> Row:
    """Turn counts into what they grew by per second; one that went back gives none."""
    rates = {
        name: round((count - before[name]) / seconds, 1)
        for name, count in counts.items()
        # A process or a network card that went took its count along.
        if seconds > 0 and count >= before.get(name, inf)
    }
    if "cpu/percent" in rates:  # counted in ticks of 10 ms, so it may come out at 100.2
        rates["cpu/percent"] = min(rates["cpu/percent"], 100.0)
    return dict(rates)


def _cpu() -> Row:
    import psutil

    # Not psutil.cpu_percent(): it is the mean since its own last call, maybe the user's.
    times = psutil.cpu_times()._asdict()
    # Linux has counted guests in user and nice already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    busy_s = sum(seconds for name, seconds in times.items() if name not in idle)
    return {
        "cpu/load_1min": round(psutil.getloadavg()[0], 2),
        "cpu/percent": 100 * busy_s / (os.cpu_count() or 1),
    }


def _memory() -> Row:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "memory/used_bytes": memory.used,
        "memory/available_bytes": memory.available,
        "memory/percent": memory.percent,
    }


def _open_files() -> Row:
    if os.path.isdir("/proc/self/fd"):
        return {"process/open_files": len(os.listdir("/proc/self/fd")) - 1}  # that of the list
    import psutil

    process = psutil.Process()
    return {"process/open_files": process.num_fds()} if hasattr(process, "num_fds") else {}


def _disk(folder: str) -> Row:
    import psutil

    disk = psutil.disk_usage(folder)
    return {"disk/used_percent": disk.percent, "disk/free_bytes": disk.free}


def _disk_traffic() -> Row:
    import psutil

    disks = _hardware(psutil.disk_io_counters(perdisk=True, nowrap=False), "/sys/block")
    return {
        "disk/read_bytes_per_s": sum(disk.read_bytes for disk in disks),
        "disk/write_bytes_per_s": sum(disk.write_bytes for disk in disks),
    }


def _network_traffic() -> Row:
    import psutil

    interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
    outward = {name: one for name, one in interfaces.items() if not name.startswith("lo")}
    cards = _hardware(outward, "/sys/class/net")
    return {
        "network/received_bytes_per_s": sum(card.bytes_recv for card in cards),
        "network/sent_bytes_per_s": sum(card.bytes_sent for card in cards),
    }


def _hardware(counters: Mapping[str, Any], folder: str) -> list[Any]:
    """Leave out partitions, logical volumes and bridges, which count the same bytes again.

    All are taken where none is hardware: in a container, and where there is no ``/sys``.
    """
    real = _real_names(tuple(counters), folder)
    return [counters[name] for name in real] or list(counters.values())


@lru_cache(maxsize=8)
def _real_names(names: tuple[str, ...], folder: str) -> list[str]:
    return [name for name in names if os.path.exists(f"{folder}/{name}/device")]


class _Usage(NamedTuple):
    """What one process has used so far, with what its ended children had (on Linux)."""

    parent: int
    cpu_s: float
    memory_bytes: int
    threads: int
    read_bytes: int | None
    written_bytes: int | None


class _ProcessTree:
    """Find the processes that this one started without a look at every process there is."""

    def __init__(self) -> None:
        self._looks = 0
        self._started_by_threads: list[int] = []
        self._elsewhere: list[Any] = []

    def usages(self) -> list[_Usage]:
        """Usage of this process, then of each one below it. One that ends meanwhile is left out.

        The sums only grow on Linux, for who waits for a child takes over what it has used.
        """
        is_full_look = self._looks % _ALL_THREADS_EVERY == 0
        self._looks += 1
        own = os.getpid()
        if not os.path.exists(f"/proc/{own}/task/{own}/children"):
            return self._usages_elsewhere(is_full_look)
        if is_full_look:
            self._started_by_threads = _children(own, os.listdir(f"/proc/{own}/task"))
        tree = {own: _usage(own)}
        for pid in self._below(own):
            try:
                usage = _usage(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if usage.parent in tree:  # else the number is another process's by now
                tree[pid] = usage
        return list(tree.values())

    def _below(self, own: int) -> Iterator[int]:
        # DataLoader workers and subprocesses are the main thread's, mostly, and a process may
        # have hundreds of threads: the others are asked now and then.
        found = dict.fromkeys((*_children(own), *self._started_by_threads))
        while found:
            pid = next(iter(found))
            del found[pid]
            yield pid
            found.update(dict.fromkeys(_children(pid)))

    def _usages_elsewhere(self, is_full_look: bool) -> list[_Usage]:
        import psutil

        own = psutil.Process()
        if is_full_look:
            self._elsewhere = own.children(recursive=True)
        usages = [_usage_elsewhere(own)]
        for process in self._elsewhere:
            try:
                usages.append(_usage_elsewhere(process))
            except psutil.Error:
                continue  # It has ended, or belongs to somebody else by now.
        return usages


def _children(pid: int, threads: Sequence[str] = ()) -> list[int]:
    """Read which processes the main thread of a process, or each of ``threads``, has started."""
    found: list[int] = []
    for thread in threads or (pid,):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += map(int, file.readall().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended.
    return found


def _usage(pid: int) -> _Usage:
    """Read ``/proc/<pid>/stat`` (proc_pid_stat(5)): all in one file, where psutil opens three."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        # Field 2 is the program's name in parentheses and may hold anything.
        fields = file.readall().rpartition(b")")[2].split()
    ticks = sum(map(int, fields[11:15]))  # user, system, and both of ended children
    return _Usage(
        int(fields[1]),
        ticks / os.sysconf("SC_CLK_TCK"),
        int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        int(fields[17]),
        *_traffic(pid),
    )


def _traffic(pid: int) -> tuple[int | None, int | None]:
    try:
        with open(f"/proc/{pid}/io", "rb", buffering=0) as file:
            counts = dict(line.split(b": ") for line in file.readall().splitlines())
        return int(counts[b"read_bytes"]), int(counts[b"write_bytes"])
    except (OSError, KeyError):
        return None, None  # Not told of programs with rights of their own, nor by every kernel.


def _usage_elsewhere(process: Any) -> _Usage:
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
        threads, parent = process.num_threads(), process.ppid()
        traffic = process.io_counters() if hasattr(process, "io_counters") else None
    read, written = (traffic.read_bytes, traffic.write_bytes) if traffic else (None, None)
    return _Usage(parent, times.user + times.system, memory.rss, threads, read, written)


def describe_gpus() -> dict[str, Any] | None:
    """Tell which NVIDIA GPUs this process may use; None where the machine has none.

    AMD's and Apple's are not looked for. Loads nvidia-ml-py (0.2 s) only where NVIDIA's driver
    library is.

    Returns
    -------
    dict
        ``driver`` and ``cuda_version`` (the newest that the driver serves), such as
        ``"550.54.14"`` and ``"12.4"``; ``devices``, in the order in which CUDA counts them (see
        ``SystemSampler``), each with ``name``, ``memory_bytes`` and ``uuid``; ``note``, what is
        missing and why, or None. What is not known is None. Without nvidia-ml-py, what
        ``/proc/driver/nvidia`` says of all GPUs, which is not their memory.
    """
    gpus, note = _open_gpus()
    if gpus is None:
        return _as_the_kernel_tells(note) if os.path.isdir(_DRIVER) else None
    try:
        return gpus.describe() if gpus.count else None
    finally:
        gpus.close()


class _Gpus:
    """The GPUs that this process may use, through NVML; ``close`` gives the library back."""

    def __init__(self) -> None:
        import pynvml

        self.nvml: Any = pynvml
        self.nvml.nvmlInit()
        self.count: int = self.nvml.nvmlDeviceGetCount()
        self.devices = self._usable()

    def _usable(self) -> list[Any]:
        every = [self.nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self.count)]
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return every
        devices = []
        for name in chosen.split(","):
            device = self._named(name.strip(), every)
            if device is None:
                break  # CUDA, too, stops at the first that is not there, such as -1.
            devices.append(device)
        return devices

    def _named(self, name: str, every: list[Any]) -> Any:
        if name.isdecimal():
            return every[int(name)] if int(name) < len(every) else None
        if name.startswith("MIG-"):  # a part of a GPU; most readings are refused for it
            return self.nvml.nvmlDeviceGetHandleByUUID(name)
        # CUDA takes the beginning of a UUID, NVML only the whole.
        begins = [one for one in every if name and self._uuid(one).startswith(name)]
        return begins[0] if begins else None

    def _uuid(self, device: Any) -> str:
        return str(self.nvml.nvmlDeviceGetUUID(device))

    def describe(self) -> dict[str, Any]:
        """Answer for ``describe_gpus``."""
        nvml, notes = self.nvml, dict[str, None]()

        def ask(function: Callable[..., Any], *args: Any) -> Any:
            try:
                return function(*args)
            except nvml.NVMLError as error:
                notes[f"{function.__name__}: {error}."] = None
                return None

        def describe(device: Any) -> dict[str, Any]:
            memory = ask(nvml.nvmlDeviceGetMemoryInfo, device)
            return {
                "name": ask(nvml.nvmlDeviceGetName, device),
                "memory_bytes": memory and memory.total,
                "uuid": ask(nvml.nvmlDeviceGetUUID, device),
            }

        cuda = ask(nvml.nvmlSystemGetCudaDriverVersion)
        if len(self.devices) < self.count:
            notes[f"CUDA_VISIBLE_DEVICES shows {len(self.devices)} of {self.count}."] = None
        return {
            "driver": ask(nvml.nvmlSystemGetDriverVersion),
            "cuda_version": cuda and f"{cuda // 1000}.{cuda % 1000 // 10}",
            "devices": [describe(device) for device in self.devices],
            "note": " ".join(notes) or None,
        }

    def close(self) -> None:
        self.nvml.nvmlShutdown()


def _open_gpus() -> tuple[_Gpus | None, str | None]:
    """Reach the GPUs. Where there are some that cannot be reached, say why."""
    if not _has_library():
        reason = "NVIDIA's driver library libnvidia-ml.so.1 was not found."
    else:
        try:
            return _Gpus(), None
        except ImportError:
            reason = _NO_PACKAGE
        except Exception as error:  # NVMLError, or whatever another driver comes up with
            reason = f"NVIDIA's driver library: {type(error).__name__}: {error}"
    return None, reason if os.path.isdir(_DRIVER) else None


def _has_library() -> bool:
    """Tell whether NVML is there, in 0.1 ms; to ask pynvml costs its import, 0.2 s."""
    if sys.platform != "linux":
        return sys.platform == "win32"  # its place varies there, and pynvml knows it
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _as_the_kernel_tells(note: str | None) -> dict[str, Any]:
    version = re.search(r"\d+\.\d+(\.\d+)?", _text(f"{_DRIVER}/version").partition("\n")[0])
    folder = f"{_DRIVER}/gpus"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    devices = []
    for name in names:
        lines = _text(f"{folder}/{name}/information").splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        devices.append(
            {"name": facts.get("Model"), "memory_bytes": None, "uuid": facts.get("GPU UUID")}
        )
    driver = version and version[0]
    return {"driver": driver, "cuda_version": None, "devices": devices, "note": note}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # What it would have said is None then.


def _utilization(nvml: Any, device: Any) -> Row:
    return {"utilization_percent": nvml.nvmlDeviceGetUtilizationRates(device).gpu}


def _gpu_memory(nvml: Any, device: Any) -> Row:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    percent = round(100 * memory.used / memory.total, 1)
    return {"memory_bytes": memory.used, "memory_percent": percent}


def _power(nvml: Any, device: Any) -> Row:
    return {"power_w": nvml.nvmlDeviceGetPowerUsage(device) / 1000}  # from milliwatts


def _temperature(nvml: Any, device: Any) -> Row:
    sensor = nvml.NVML_TEMPERATURE_GPU
    return {"temperature_c": nvml.nvmlDeviceGetTemperature(device, sensor)}


_GPU_READINGS: dict[str, Callable[[Any, Any], Row]] = {
    "utilization": _utilization,
    "memory": _gpu_memory,
    "power": _power,
    "temperature": _temperature,
}
