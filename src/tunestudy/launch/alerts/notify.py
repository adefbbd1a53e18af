"""The user's own command for alerts: told one by one, in the background, and never waited for."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tunestudy.config.alerts import AlertSettings

_MOST_AT_ONCE = 4
"""Of a storm of alerts the command gets these; the rest is in the journal."""


class Notifier:
    """Runs `alerts.command` with the alert as JSON on its standard input."""

    def __init__(self, settings: AlertSettings, env: Mapping[str, str], tell: Callable[[str], None]) -> None:
        """`tell`: where it is said, once, that the command does not work."""
        self._settings, self._env, self._tell = settings, env, tell
        self._free = threading.Semaphore(_MOST_AT_ONCE)
        self._told = False
        self.threads: list[threading.Thread] = []

    def send(self, alert: Mapping[str, Any]) -> None:
        """Returns at once."""
        if self._settings.command is None:
            return
        if not self._free.acquire(blocking=False):
            self._complain("alerts.command is still busy with others; this alert is in the journal alone")
            return
        thread = threading.Thread(target=self._run, args=(json.dumps(alert),), daemon=True)
        self.threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Let the last ones end, no longer than their time allows."""
        for thread in self.threads:
            thread.join(self._settings.command_timeout_s + 1.0)

    def _run(self, text: str) -> None:
        command = self._settings.command
        assert command is not None
        try:
            process = subprocess.Popen(
                command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **self._env},
                start_new_session=True,
            )
            try:
                process.communicate(text.encode(), timeout=self._settings.command_timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._complain(f"alerts.command took longer than {self._settings.command_timeout_s:g} s and was killed")
                return
            if process.returncode:
                self._complain(f"alerts.command ended with exit code {process.returncode}")
        except OSError as error:
            self._complain(f"alerts.command could not be started: {error.strerror}")
        finally:
            self._free.release()

    def _complain(self, words: str) -> None:
        if not self._told:
            self._told = True
            self._tell(words)
