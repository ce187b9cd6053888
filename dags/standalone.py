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
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_HOST": HOST,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DSIRM_HOME": os.environ.get("DSIRM_HOME", str(DAGS.parent / ".demo")),
    }


def main() -> int:
    """Start, wait, and end every child: `airflow standalone` leaves some behind after SIGTERM."""
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
    server = subprocess.Popen([airflow, "standalone"], env=env, start_new_session=True)

    def stop(*_: object) -> None:
        os.killpg(server.pid, signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        server.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
