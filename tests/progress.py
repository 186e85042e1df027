"""Says every ten seconds where a run of the tests is, also with pytest-xdist and where the output is no terminal."""

from __future__ import annotations

from threading import Event, Thread

import pytest


class Progress:
    def __init__(self) -> None:
        self.running: list[str] = []
        self.total = self.done = 0
        self.over = Event()

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        Thread(target=self.tell, args=[terminal], daemon=True).start()

    def tell(self, terminal: pytest.TerminalReporter) -> None:
        while not self.over.wait(10):
            share = f"{self.done} of {self.total} tests, {100 * self.done // max(self.total, 1)} %"
            terminal.write_line(f"{share}: {', '.join(self.running)}" if self.total else "collecting tests")

    def pytest_sessionfinish(self) -> None:
        self.over.set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.total = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.total = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running.append(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.remove(nodeid)
        self.done += 1

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dot for each test that passes."""
        return ("passed", "", "") if report.passed and report.when == "call" else None
