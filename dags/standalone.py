"""`make airflow`: Airflow on loopback with the project's DAGs loaded, until Ctrl-C.

Everything lives in `.airflow/` (override: AIRFLOW_HOME). Not for production: a SQLite database and no logins.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

DAGS = Path(__file__).resolve().parent
HOST = "127.0.0.1"


def environment(home: Path, port: int) -> dict[str, str]:
    """Settings of a standalone Airflow that listens on loopback only and knows no examples."""
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DSIRM_HOME": os.environ.get("DSIRM_HOME", str(DAGS.parent / ".demo")),
    }


def main() -> int:
    """Start the four parts of Airflow, wait, and end every child.

    Not `airflow standalone`: its log servers listen on every interface, and it leaves children behind after SIGTERM.
    Logs are read from the disk they are written to, so no log server is needed.
    """
    home = Path(os.environ.get("AIRFLOW_HOME", DAGS.parent / ".airflow"))
    port = int(os.environ.get("AIRFLOW_PORT", "8080"))
    home.mkdir(parents=True, exist_ok=True)
    env = environment(home, port)
    airflow = str(Path(sys.executable).with_name("airflow"))
    subprocess.run([airflow, "db", "migrate"], env=env, check=True)
    subprocess.run([airflow, "pools", "set", "gpu", "1", "Trainers: one slot a GPU"], env=env, check=True)
    subprocess.run([airflow, "dags", "reserialize"], env=env, check=True)
    sys.stdout.write(f"Airflow: http://{HOST}:{port} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    parts = [
        subprocess.Popen([airflow, *words], env=env, start_new_session=True)
        for words in (
            ("api-server", "--host", HOST, "--port", str(port)),
            ("scheduler", "--skip-serve-logs"),
            ("dag-processor",),
            ("triggerer", "--skip-serve-logs"),
        )
    ]

    def stop(*_: object) -> None:
        for part in parts:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        for part in parts:
            part.wait()
    finally:
        for part in parts:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
