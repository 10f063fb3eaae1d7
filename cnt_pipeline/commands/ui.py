"""`cnt ui`: Dagster's web interface and daemon over the studies of this project."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cnt_pipeline.commands.console import err
from cnt_pipeline.errors import InputError
from cnt_pipeline.pipeline.project import dagster_home, project_folder, store_url, study_files

STOP_SECONDS = 15


def serve(studies: Sequence[Path], store: str | None, host: str, port: int) -> int:
    """Serve until interrupted.

    Raises:
        InputError: there is no study, or the port is taken.
    """
    files = [path.resolve() for path in studies] or study_files()
    absent = next((path for path in files if not path.exists()), None)
    if absent is not None or not files:
        place = absent or project_folder() / "studies"
        raise InputError(f"{place}: no study file there; `cnt init {place}` writes one" if absent else (
            f"{place} holds no study file; `cnt init {place / 'study.yaml'}` writes one, or name study files"
        ))  # fmt: skip
    _refuse_taken(host, port)
    from assets.in_process import prepare_home

    home = dagster_home()
    prepare_home(home)
    url = store_url(store)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "CNT_STORE": url if "://" in url else str(Path(url).absolute()),
        "CNT_STUDIES": os.pathsep.join(map(str, files)),
    }
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "dagster",
        "dev",
        "-m",
        "assets.definitions",
        "-h",
        host,
        "-p",
        str(port),
    ]
    err().print(
        f"http://{host}:{port}  studies: {', '.join(path.stem for path in files)}  history: {home}", markup=False
    )
    err().print("Ctrl+C stops it; runs in progress are stopped too, finished steps are kept.")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # before the start: a child of `cnt ui &` would ignore SIGINT
    server = subprocess.Popen([*command, "--log-level", "warning"], env=environment, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        _stop(server)
        return 0


def _stop(server: subprocess.Popen[bytes]) -> None:
    """The server's children are in its group: all of them end."""
    os.killpg(server.pid, signal.SIGINT)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {host} cannot be used ({error.strerror}): name another with --port"
            ) from None
