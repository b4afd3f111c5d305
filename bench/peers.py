"""The virtual machines that the scripts here compare, how their processes are measured, and tables of figures."""
import math
import os
import re
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
HOME = BENCH.parent
CACHE = HOME / ".cache/bench"
GUEST = CACHE / "guest"
GUEST_MIB = 512
LIMIT_SECONDS = 1500  # the longest run

# Beyond these the machine was too noisy for its figures to be trusted.
OTHERS = 0.25  # processors that other programs used during the run
CPU_SHARE = 0.95
SPREAD = 0.10
STEAL = 0.02



def fail(message):
    print(f"bench: {message}", file=sys.stderr)
    sys.exit(2)


def say(message):
    print(f"bench: {message}", file=sys.stderr, flush=True)


# ---- Processes ------------------------------------------------------------------------------------------------------

def cpu_seconds(pid):
    """CPU time of a process, of its live descendants and of those they waited for; 0 when it has ended."""
    try:
        # The CPU clock of another process (clock_getcpuclockid(3)): nanoseconds, with its threads that have ended.
        total = time.clock_gettime(~pid << 3 | 2)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime
        for task in os.listdir(f"/proc/{pid}/task"):
            total += sum(cpu_seconds(int(p)) for p in Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        return total
    except (OSError, ValueError):
        return 0.0


def resident_mib(pid):
    """The peak of a process, and what it has now beside the guest's RAM, which is the mapping of about that size."""
    own = guest = size = 0
    try:
        for line in open(f"/proc/{pid}/smaps"):
            name, value, *_ = line.split()
            if "-" in name:
                # Generated code is mapped twice, to write and to execute: only the proportional size counts it once.
                measure = "Pss:" if "/memfd:" in line else "Rss:"
            elif name == "Size:":
                size = int(value)
            elif name == measure and abs(size - GUEST_MIB * 1024) <= 2048:
                guest += int(value)
            elif name == measure:
                own += int(value)
        peak = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return {"peak": int(peak[1]) / 1024, "own": own / 1024} if peak and guest else None


class Run:
    """A pinned process whose lines of output come with wall and CPU seconds since its start."""

    def __init__(self, peer, mode, number, command, processors, environment=None):
        self.name = f"{peer} {mode} {number}"
        self._log = open(CACHE / "log" / f"{peer}.{mode}.{number}", "w", buffering=1)
        self._log.write(f"# {' '.join(map(str, command))}\n")
        self.problems, self._stopped = [], False
        self._start = time.monotonic()
        self._process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, processors)), *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=open(self._log.name + ".err", "w"), start_new_session=True, env={**os.environ, **(environment or {})})
        self.pid = self._process.pid

    def cpu(self):
        return cpu_seconds(self.pid)

    def lines(self):
        fd, rest = self._process.stdout.fileno(), b""
        while True:
            ready = select.select([fd], [], [], max(0, self._start + LIMIT_SECONDS - time.monotonic()))[0]
            data = os.read(fd, 65536) if ready else b""
            wall, cpu = time.monotonic() - self._start, self.cpu()
            if not ready:
                self.problems.append(f"not done after {LIMIT_SECONDS} s")
                self.stop()
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                text = line.decode("latin1").strip("\r")
                self._log.write(f"{wall:.4f} {cpu:.4f} {text}\n")
                yield wall, cpu, text

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.stop()
        code = self._process.wait()
        if code and not self._stopped:
            tail = Path(self._log.name + ".err").read_text().strip().splitlines()
            self.problems.append((f"exit code {code}" if code > 0 else f"signal {-code}") + (f": {tail[-1]}" if tail else ""))

    def stop(self):
        self._stopped = True
        os.killpg(self.pid, signal.SIGKILL)


# ---- The machines ---------------------------------------------------------------------------------------------------

class Native:
    title = "native"
    SETUP = ('PATH=/sbin:/usr/sbin:/bin:/usr/bin; cd "$0" && mount -t tmpfs tmpfs tmp && mount --rbind /proc proc && mount --rbind /sys sys && '
             'mount --rbind /dev dev && exec chroot . /bin/sh "$@"')

    def __init__(self):
        self._unshare = next((u for u in (["unshare", "-m"], ["unshare", "-rm"]) if self._works(u)), None)
        if not self._unshare:
            raise LookupError("native is left out: unshare(1) with a chroot needs root or user namespaces here")

    def _works(self, unshare):
        command = [*unshare, "sh", "-c", self.SETUP, GUEST / "chroot", "-c", "true"]
        return shutil.which("unshare") and subprocess.run(command, capture_output=True).returncode == 0

    def command(self, mode, only):
        arguments = ["/workloads.sh", *(["--only", ",".join(only)] if only else [])]
        return [*self._unshare, "sh", "-c", self.SETUP, GUEST / "chroot", *arguments], None


class Tcg:
    title = "TCG"
    ACCELERATOR = "tcg,thread=single", "max"

    def __init__(self):
        self._binary, self._options, self._environment = shutil.which("qemu-system-x86_64"), [], None
        if not self._binary:
            own = CACHE / "qemu"
            if subprocess.run([BENCH / "guest/build.sh", "qemu"]).returncode != 0:
                raise LookupError(f"{self.title} is left out: no qemu-system-x86_64 on PATH, and none could be fetched; install qemu-system-x86")
            self._binary = own / "usr/bin/qemu-system-x86_64"
            self._options = ["-L", own / "usr/share/seabios", "-L", own / "usr/share/qemu"]
            self._environment = {"LD_LIBRARY_PATH": str(own / "libraries"), "QEMU_MODULE_DIR": str(own / "usr/lib/x86_64-linux-gnu/qemu")}
        version = subprocess.run([self._binary, "--version"], capture_output=True, text=True, env={**os.environ, **(self._environment or {})})
        if version.returncode != 0:
            raise LookupError(f"{self.title} is left out: {self._binary} does not start: {version.stderr.strip()}")
        self.version = version.stdout.splitlines()[0]

    def command(self, arguments):
        machine = ["-machine", "pc", "-accel", self.ACCELERATOR[0], "-cpu", self.ACCELERATOR[1], "-m", GUEST_MIB, "-nodefaults",
                   "-display", "none", "-serial", "stdio", "-no-reboot"]
        return [self._binary, *self._options, *machine, *arguments], self._environment


class Kvm(Tcg):
    """QEMU with the host's KVM, where it runs."""
    title = "KVM"
    ACCELERATOR = "kvm", "host,-arch-capabilities"

    def __init__(self):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise LookupError("KVM is left out: there is no /dev/kvm that may be used")
        super().__init__()
        command, environment = self.command(["-kernel", GUEST / "vmlinuz", "-initrd", GUEST / "boot.img", "-append", "console=ttyS0 quiet gb=boot"])
        try:
            run = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, timeout=30, env={**os.environ, **(environment or {})})
            reason = (run.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {run.returncode}"])[-1]
            boots = b"BOOTED" in run.stdout
        except subprocess.TimeoutExpired:
            boots, reason = False, "not one line of it in 30 s"
        if not boots:
            raise LookupError(f"KVM is left out: QEMU's guest does not boot by this host's /dev/kvm: {reason}")


class Sharpvisor:
    def __init__(self, accel, extra):
        self._options = [*(["-accel", accel] if accel else []), *extra]
        self.title = f"Sharpvisor {accel}" if accel else "Sharpvisor"
        commit = subprocess.run(["git", "-C", HOME, "describe", "--always", "--dirty"], capture_output=True, text=True)
        self.version = f"Sharpvisor {commit.stdout.strip()} {' '.join(self._options)}".rstrip()
        if subprocess.run([HOME / "sharpvisor", "--version"], stdout=subprocess.DEVNULL).returncode != 0:  # builds it
            raise LookupError("Sharpvisor is left out: it could not be built")

    def command(self, arguments):
        machine = ["-m", GUEST_MIB, "-smp", 1, "-nographic", "-nic", "none", "-no-reboot", *self._options]
        return [HOME / "sharpvisor", "run", *machine, *arguments], None


# ---- Measuring ------------------------------------------------------------------------------------------------------

def run_boot(run):
    """Wall and CPU seconds from the start of the process to the first line of init, and the memory there."""
    result = None
    for wall, cpu, text in run.lines():
        if text == "BOOTED":
            result = {"wall": wall, "cpu": cpu, "memory": resident_mib(run.pid)}
    return result


def run_workloads(run):
    """{workload: {wall, cpu, own_wall, own_cpu in ms, chk}} and the memory at the end. own: what the guest itself measured."""
    result, memory, name, began, done = {}, None, None, None, False
    for wall, cpu, text in run.lines():
        if text.startswith("> "):
            name, began, ended = text[2:], (wall, cpu), None
        elif text == "<" and name:
            ended = {"wall": (wall - began[0]) * 1e3, "cpu": (cpu - began[1]) * 1e3}
        elif name and text.startswith(name + " "):
            if text == f"{name} n/a":
                pass  # the processor does not have it
            elif ended and (own := re.search(r"chk=(\w+) ms=([\d.]+) cpu=([\d.]+)", text)):
                result[name] = {**ended, "chk": own[1], "own_wall": float(own[2]), "own_cpu": float(own[3])}
            else:
                run.problems.append(text)
            name = None
        elif text == "DONE":
            memory, done = resident_mib(run.pid), True
    if not done:
        run.problems.append(f"ended in {name}" if name else "ended early")
    return result, memory


# ---- Figures --------------------------------------------------------------------------------------------------------

def number(value):
    return "–" if value is None else f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def ratio(a, b):
    return a / b if a and b else None


def geomean(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]) + " |" for row in rows]
    lines.insert(1, "|" + "-" * (widths[0] + 2) + "|" + "|".join("-" * (w + 1) + ":" for w in widths[1:]) + "|")
    return lines


class Machine:
    """What the host did since this object was made."""

    def __init__(self):
        self._load, self._wall, self._stat, self._ours = os.getloadavg()[0], time.monotonic(), self._read(), self._own()

    @staticmethod
    def _read():  # user nice system idle iowait irq softirq steal, seconds of all processors
        return [int(f) / os.sysconf("SC_CLK_TCK") for f in open("/proc/stat").readline().split()[1:9]]

    @staticmethod
    def _own():
        return sum(r.ru_utime + r.ru_stime for r in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    def figures(self):
        """Load averages before and now, the share of time stolen, and how many processors other programs used."""
        user, nice, system, idle, iowait, irq, softirq, steal = (b - a for a, b in zip(self._stat, self._read()))
        busy = user + nice + system + irq + softirq
        others = (busy - (self._own() - self._ours)) / (time.monotonic() - self._wall)
        return (self._load, os.getloadavg()[0]), steal / max(1, busy + idle + iowait + steal), max(0, others)


def host():
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    return f"{model}, {os.cpu_count()} processors, Linux {os.uname().release}"


