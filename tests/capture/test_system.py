import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from experiment_tracking.capture import system
from experiment_tracking.capture.system import SystemSampler

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RATES = {
    "cpu/percent", "process/cpu_percent", "process/read_bytes_per_s", "process/write_bytes_per_s",
    "disk/read_bytes_per_s", "disk/write_bytes_per_s", "network/received_bytes_per_s",
    "network/sent_bytes_per_s",
}  # fmt: skip
STATES = {
    "cpu/load_1min", "memory/used_bytes", "memory/available_bytes", "memory/percent",
    "process/memory_bytes", "process/threads", "process/children",
    "process/children_memory_bytes", "process/open_files", "disk/used_percent", "disk/free_bytes",
}  # fmt: skip


@pytest.fixture
def sampler(tmp_path):
    sampler = SystemSampler(str(tmp_path))
    yield sampler
    sampler.close()


@pytest.fixture
def start():
    """Start a Python process that runs ``code``, and wait until it has printed a line."""
    started = []

    def start(code):
        command = [sys.executable, "-c", code]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, **pipes, text=True))
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.communicate()


WAITS = "print(flush=True); input()"
USES_CPU = f"import time\nwhile time.process_time() < 0.2: pass\n{WAITS}"


def use_cpu(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def not_gpu(row):
    return {name for name in row if not name.startswith("gpu/")}


@linux_only
def test_a_row_is_plain_finite_numbers_and_rates_begin_with_the_second(sampler):
    first, second = sampler.sample(), sampler.sample()
    assert not_gpu(first) == STATES
    assert not_gpu(second) == STATES | RATES
    assert {type(value) for value in second.values()} <= {int, float}
    assert all(math.isfinite(value) for value in second.values())


def test_the_numbers_are_those_of_this_process_and_disk(sampler, tmp_path):
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    row = sampler.sample()
    stop.set()
    for thread in threads:
        thread.join()
    assert row["process/threads"] >= 4
    assert 1_000_000 < row["process/memory_bytes"] < row["memory/used_bytes"]
    assert 0 < row["memory/percent"] < 100
    assert 0 < row["disk/free_bytes"] < shutil.disk_usage(tmp_path).total
    assert 0 < row["disk/used_percent"] < 100


@linux_only
def test_the_open_files_are_counted(sampler, tmp_path):
    before = sampler.sample()["process/open_files"]
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert sampler.sample()["process/open_files"] == before + 2


@linux_only
def test_cpu_time_of_this_process_and_its_children_is_taken_together(sampler, start):
    began = time.monotonic()
    sampler.sample()
    start(USES_CPU)
    use_cpu(0.2)
    percent = sampler.sample()["process/cpu_percent"]
    # Ticks of 10 ms, in four counters.
    assert percent / 100 * (time.monotonic() - began) > 0.35


@linux_only
def test_the_cpu_time_of_a_child_is_not_lost_nor_counted_twice_when_it_ends(sampler, start):
    child = start(USES_CPU)
    sampler.sample()
    began = time.monotonic()
    child.communicate("\n")
    used = sampler.sample()["process/cpu_percent"] / 100 * (time.monotonic() - began)
    # Its 0.2 s were in the first sample; winding up took less.
    assert 0 <= used < 0.18


def test_a_sum_of_cpu_times_does_not_go_back_by_a_rounding_when_a_child_ends(sampler, monkeypatch):
    def percent_of(*seconds):
        usages = [system._Usage(1, one, 0, 1, None, None) for one in seconds]
        monkeypatch.setattr(sampler._tree, "usages", lambda: usages)
        return sampler._processes()["process/cpu_percent"]

    assert 0.1 + 0.2 > 0.3
    assert percent_of(0.3) >= percent_of(0.1, 0.2)


@linux_only
def test_children_and_their_children_are_counted_as_they_come_and_go(sampler, start):
    before = sampler.sample()["process/children"]
    child = start(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {WAITS!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(flush=True); child.wait()"
    )
    row = sampler.sample()
    assert row["process/children"] == before + 2
    assert row["process/children_memory_bytes"] > 2_000_000
    child.communicate("\n")
    assert sampler.sample()["process/children"] == before


@linux_only
def test_a_child_of_another_thread_is_found_within_six_samples(sampler, start):
    before = sampler.sample()["process/children"]
    started, stop = threading.Event(), threading.Event()

    def begin():
        start(WAITS)
        started.set()
        stop.wait()

    thread = threading.Thread(target=begin)
    thread.start()
    started.wait()
    counts = [sampler.sample()["process/children"] for _ in range(6)]
    stop.set()
    thread.join()
    assert counts[-1] == before + 1


_BOTH_WAYS = f"""
import json, subprocess, sys
from experiment_tracking.capture import system
child = subprocess.Popen([sys.executable, '-c', {WAITS!r}], stdin=-1, stdout=-1)
child.stdout.readline()
quick, slow = system._ProcessTree().usages(), system._ProcessTree()._usages_elsewhere(True)
child.communicate(b'go')
print(json.dumps([quick, slow]))
"""


@linux_only
def test_psutil_finds_the_same_processes_where_proc_does_not_list_them():
    # In a process of its own: children of other tests may come and go between the two looks.
    found = subprocess.run(
        [sys.executable, "-c", _BOTH_WAYS], capture_output=True, text=True, check=True
    )
    quick, slow = (
        [system._Usage(*usage) for usage in usages] for usages in json.loads(found.stdout)
    )
    assert len(quick) == 2
    assert [usage.parent for usage in slow] == [usage.parent for usage in quick]
    assert [usage.threads for usage in slow] == [usage.threads for usage in quick]
    assert slow[1].memory_bytes == pytest.approx(quick[1].memory_bytes, rel=0.1)


def test_a_child_that_ended_is_passed_over_by_psutil_too(start):
    child = start(WAITS)
    tree = system._ProcessTree()
    before = len(tree._usages_elsewhere(True))
    child.communicate("\n")
    assert len(tree._usages_elsewhere(False)) == before - 1


def test_what_cannot_be_read_is_absent_and_noted_once(tmp_path):
    sampler = SystemSampler(str(tmp_path / "missing"))
    rows = [sampler.sample(), sampler.sample()]
    assert "disk/free_bytes" not in rows[1]
    assert "memory/percent" in rows[1]
    [note] = [note for note in sampler.notes if note.startswith("disk: FileNotFoundError")]
    assert "missing" in note


def test_a_count_that_went_back_or_is_new_gives_no_rate():
    before = {"network/sent_bytes_per_s": 100, "disk/read_bytes_per_s": 100}
    counts = {"network/sent_bytes_per_s": 90, "disk/read_bytes_per_s": 300, "cpu/percent": 5}
    assert system._rates(counts, before, 10.0) == {"disk/read_bytes_per_s": 20.0}


def test_two_samples_at_one_moment_give_no_rates():
    assert system._rates({"cpu/percent": 2}, {"cpu/percent": 1}, 0.0) == {}


def test_the_machine_is_never_busier_than_100_percent():
    assert system._rates({"cpu/percent": 1002}, {"cpu/percent": 0}, 10.0) == {"cpu/percent": 100}


def test_partitions_and_bridges_are_not_counted_beside_the_hardware(tmp_path):
    (tmp_path / "sda" / "device").mkdir(parents=True)
    (tmp_path / "dm-0").mkdir()
    counters = {"sda": 1, "sda1": 2, "dm-0": 4}
    assert system._hardware(counters, str(tmp_path)) == [1]
    assert system._hardware(counters, str(tmp_path / "missing")) == [1, 2, 4]


def test_making_a_sampler_loads_nothing():
    code = (
        "import sys; from experiment_tracking.capture.system import SystemSampler\n"
        "SystemSampler('.'); print({'psutil', 'ctypes', 'pynvml'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


NVML = r"""
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
static int number(const char *name, int otherwise) {
    return getenv(name) ? atoi(getenv(name)) : otherwise;
}
int nvmlInitWithFlags(unsigned flags) { return number("STUB_INIT", 0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int result) { return result == 3 ? "Not Supported" : "Failed"; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { strncpy(out, "550.54.14", n); return 0; }
int nvmlSystemGetCudaDriverVersion(int *out) { *out = 12040; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = number("STUB_COUNT", 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    *out = (void *)(long)(index + 1); return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    if (strcmp(uuid, "MIG-33")) return 6;
    *out = (void *)2L; return 0;
}
int nvmlDeviceGetName(void *device, char *out, unsigned n) {
    strncpy(out, device == (void *)1L ? "Card A" : "Card B", n); return 0;
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned n) {
    strncpy(out, device == (void *)1L ? "GPU-1111" : "GPU-2222", n); return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
    out->total = 8000; out->used = 1000 * (long)device; out->free = out->total - out->used;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *out) {
    out->gpu = 40 + (long)device; return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *out) {
    *out = 250500; return device == (void *)1L ? 0 : 3;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) { *out = 61; return 0; }
"""
"""Two cards with known values; the second does not tell its power."""


@pytest.fixture(scope="module")
def nvml_folder(tmp_path_factory):
    """Folder of a driver library that nvidia-ml-py loads as the real one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(NVML)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    return folder


@pytest.fixture
def with_gpus(nvml_folder):
    """Run code in a process that sees the stub's cards; gives back what it stores in ``out``."""
    pytest.importorskip("pynvml", reason="pip install nvidia-ml-py")

    def with_gpus(code, **variables):
        code = (
            "import json, os, sys\n"
            "from experiment_tracking.capture import system\n"
            "from experiment_tracking.capture.system import SystemSampler, describe_gpus\n"
            f"{code}\nprint(json.dumps(out))"
        )
        environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_folder), **variables}
        if "CUDA_VISIBLE_DEVICES" not in variables:
            environment.pop("CUDA_VISIBLE_DEVICES", None)
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return with_gpus


def test_each_gpu_is_measured_and_a_reading_that_is_refused_noted_once(with_gpus):
    rows, notes = with_gpus(
        "sampler = SystemSampler('.')\n"
        "rows = [sampler.sample(), sampler.sample()]; sampler.close(); out = rows, sampler.notes"
    )
    for row in rows:
        assert {name: value for name, value in row.items() if name.startswith("gpu/")} == {
            "gpu/0/utilization_percent": 41,
            "gpu/0/memory_bytes": 1000,
            "gpu/0/memory_percent": 12.5,
            "gpu/0/power_w": 250.5,
            "gpu/0/temperature_c": 61,
            "gpu/1/utilization_percent": 42,
            "gpu/1/memory_bytes": 2000,
            "gpu/1/memory_percent": 25.0,
            "gpu/1/temperature_c": 61,
        }
    assert notes == ["gpu/1 power: NVMLError_NotSupported: Not Supported"]


def test_gpus_are_described_with_driver_and_cuda_version(with_gpus):
    assert with_gpus("out = describe_gpus()") == {
        "driver": "550.54.14",
        "cuda_version": "12.4",
        "devices": [
            {"name": "Card A", "memory_bytes": 8000, "uuid": "GPU-1111"},
            {"name": "Card B", "memory_bytes": 8000, "uuid": "GPU-2222"},
        ],
        "note": None,
    }


def test_only_the_gpus_that_cuda_shows_this_process_are_looked_at(with_gpus):
    choices = {
        "1": ["Card B"],
        "1,0": ["Card B", "Card A"],
        " 0 ": ["Card A"],
        "GPU-22": ["Card B"],
        "MIG-33": ["Card B"],
        "": [],
        "-1": [],
        "1,7,0": ["Card B"],  # CUDA stops at the first that is not there
    }
    found = with_gpus(
        "out = {}\n"
        f"for choice in {list(choices)}:\n"
        "    os.environ['CUDA_VISIBLE_DEVICES'] = choice\n"
        "    out[choice] = describe_gpus()"
    )
    assert {
        choice: [device["name"] for device in gpus["devices"]] for choice, gpus in found.items()
    } == choices
    assert found[""]["note"] == "CUDA_VISIBLE_DEVICES shows 0 of 2."


def test_the_gpus_are_chosen_at_the_first_sample_for_a_script_may_set_them_late(with_gpus):
    row = with_gpus(
        "sampler = SystemSampler('.'); os.environ['CUDA_VISIBLE_DEVICES'] = '1'\n"
        "out = sampler.sample()",
        CUDA_VISIBLE_DEVICES="0",
    )
    assert row["gpu/0/memory_bytes"] == 2000
    assert not any(name.startswith("gpu/1") for name in row)


NO_DRIVER = "import tempfile; system._DRIVER = tempfile.gettempdir() + '/no-driver'\n"


@pytest.mark.parametrize("variables", [{"STUB_COUNT": "0"}, {"STUB_INIT": "9"}])
def test_a_machine_with_the_library_but_no_gpu_has_none_and_notes_nothing(with_gpus, variables):
    gpus, notes = with_gpus(
        f"{NO_DRIVER}sampler = SystemSampler('.'); sampler.sample()\n"
        "out = describe_gpus(), sampler.notes",
        **variables,
    )
    assert (gpus, notes) == (None, [])


@pytest.fixture
def driver(tmp_path):
    """What NVIDIA's kernel module shows under /proc."""
    gpu = tmp_path / "gpus" / "0000:01:00.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text(
        "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ:   \t\t 148\nGPU UUID: \t GPU-aaaa\n"
    )
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    return tmp_path


def test_without_nvidia_ml_py_the_kernel_tells_and_the_note_says_what_to_install(with_gpus, driver):
    gpus, notes = with_gpus(
        f"sys.modules['pynvml'] = None; system._DRIVER = {str(driver)!r}\n"
        "sampler = SystemSampler('.'); sampler.sample(); out = describe_gpus(), sampler.notes"
    )
    assert (gpus["driver"], gpus["cuda_version"]) == ("575.57.08", None)
    assert gpus["devices"] == [
        {"name": "NVIDIA A100-SXM4-80GB", "memory_bytes": None, "uuid": "GPU-aaaa"}
    ]
    assert "pip install 'experiment_tracking[gpu]'" in gpus["note"]
    assert notes == [gpus["note"]]


def test_a_driver_that_refuses_is_noted_with_its_reason(with_gpus, driver):
    gpus = with_gpus(
        f"system._DRIVER = {str(driver)!r}; out = describe_gpus()",
        STUB_INIT="18",
    )
    assert gpus["driver"] == "575.57.08"
    assert "NVMLError_LibRmVersionMismatch" in gpus["note"]


def test_without_nvidias_library_nvidia_ml_py_is_not_even_loaded():
    if system._has_library():
        pytest.skip("this machine has NVIDIA's driver library")
    code = (
        "import sys; from experiment_tracking.capture.system import SystemSampler\n"
        "SystemSampler('.').sample(); print('pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
