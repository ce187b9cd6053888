"""Processes of the harness: started ahead, told what to do, killed whole."""

import contextlib
import json
import select
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds, for a machine that does other things as well


class Worker:
    """One `tests.faults.worker`, in a session of its own."""

    def __init__(self, log, spark=None):
        """`spark`: properties of its session; None: it starts no JVM. `log`: file of what it prints."""
        words = [sys.executable, "-m", "tests.faults.worker", *(["--spark", json.dumps(spark)] if spark else [])]
        self.log = Path(log)
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.ready = False

    def wait(self):
        """Until it has started."""
        if not self.ready:
            assert self.answer() == {"ready": True}
            self.ready = True

    def order(self, do, **what):
        """Say what to do, without waiting."""
        self.wait()
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()

    def answer(self):
        """Wait for what came of it."""
        line = self.process.stdout.readline()
        assert line, f"the process died by itself:\n{self.log.read_text()[-4000:]}"
        return json.loads(line)

    def call(self, do, **what):
        """Order and answer in one."""
        self.order(do, **what)
        return self.answer()

    def kill_at(self, reached):
        """Wait until it says that it reached the point, then kill it and its children at once."""
        deadline = time.monotonic() + PATIENCE
        while not Path(reached).exists():
            assert time.monotonic() < deadline, f"not reached:\n{self.log.read_text()[-4000:]}"
            if select.select([self.process.stdout], [], [], 0.01)[0]:
                raise AssertionError(f"it ended before the point: {self.answer()}")
        self.kill()

    def kill(self):
        """At once, children and all."""
        kill_tree(self.process.pid)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def kill_tree(pid):
    """SIGKILL for a whole tree: Python, its JVM and the JVM's Python workers, which lead groups of their own."""
    try:
        top = psutil.Process(pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(tree, timeout=30)


class Workers:
    """Processes of both kinds, JVM and delta-rs. One is started ahead, since a start is most of what a kill costs."""

    def __init__(self, folder, spark):
        self.folder, self.spark = folder, spark
        self.started, self.spare = [], {"JVM": [], "delta-rs": []}

    def take(self, kind, *, ahead=True):
        """One that is ready; `ahead`: another will be asked for."""
        taken = self.spare[kind].pop() if self.spare[kind] else self._start(kind)
        taken.wait()
        if ahead and not self.spare[kind]:
            self.spare[kind].append(self._start(kind))
        return taken

    def give_back(self, kind, worker):
        """It was not killed, and nothing is armed in it."""
        self.spare[kind].append(worker)

    def close(self):
        for worker in self.started:
            worker.kill()

    def _start(self, kind):
        log = self.folder / f"{len(self.started)}.log"
        self.started.append(Worker(log, self.spark if kind == "JVM" else None))
        return self.started[-1]


def compile_log_store(folder, classpath):
    """`FaultyLogStore` for Spark -> the session properties that put it in place of Delta's own."""
    source = Path(__file__).with_name("FaultyLogStore.java")
    subprocess.run(["javac", "-d", str(folder), "-cp", classpath, str(source)], check=True, timeout=120)
    # A jar beside Delta's own: on the class path of the JVM itself it would not see Delta's classes.
    jar = folder / "faults.jar"
    with zipfile.ZipFile(jar, "w") as packed:
        packed.write(folder / "faults" / "FaultyLogStore.class", "faults/FaultyLogStore.class")
    return {"spark.jars": str(jar), "spark.delta.logStore.file.impl": "faults.FaultyLogStore"}
