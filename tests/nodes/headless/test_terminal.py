"""The bar: one moving line on a screen, a plain line now and then in a file, with figures, speed and time left."""

from __future__ import annotations

import io
import logging

import pytest
from graft.nodes.headless.terminal import Reporter, ReporterHandler, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def train(reporter, clock, total, seconds_per_step, first=0):
    progress = reporter.progress()
    progress.start(total, "step")
    for step in range(first, total):
        clock.now += seconds_per_step
        progress.advance(step + 1, loss=0.25, learning_rate=1e-3)
    progress.finish()
    return progress


def test_a_file_gets_plain_lines_at_intervals_and_the_last_state(clock):
    stream = io.StringIO()
    reporter = Reporter(stream, lambda: None, clock)
    reporter.node_started(2, 5, "Train Steps (node 7)")
    train(reporter, clock, 100, 0.5)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[2/5] Train Steps (node 7)"
    assert [line.split("] ")[2].split("  ")[0] for line in lines[1:]] == ["30/100 steps", "60/100 steps", "90/100 steps", "100/100 steps"]
    assert "\r" not in stream.getvalue()
    assert lines[1].endswith("30/100 steps  loss 0.25  learning rate 0.001  2 steps/s  0:35 left")


def test_a_screen_gets_one_line_that_moves_and_stays_clean(clock):
    stream = Screen()
    reporter = Reporter(stream, lambda: None, clock)
    reporter.node_started(1, 1, "Train")
    train(reporter, clock, 4, 0.5)
    reporter.node_finished(2.0)
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\r\x1b[2K[1/1] Train: done in 2.0 s\n")
    assert "[######..................] 1/4 steps" in text and "[########################] 4/4 steps" in text


def test_slow_work_is_told_in_seconds_per_step(clock):
    progress = train(Reporter(io.StringIO(), lambda: None, clock), clock, 10, 4.0)
    assert "4 s/step" in progress.text()


def test_resumed_work_is_not_counted_as_speed(clock):
    reporter = Reporter(io.StringIO(), lambda: None, clock)
    progress = reporter.progress()
    progress.start(1000, "step")
    for step in range(901, 905):
        clock.now += 1.0
        progress.advance(step)
    assert "1 steps/s" in progress.text() and "1:36 left" in progress.text()


def test_work_without_time_or_total_shows_no_speed(clock):
    reporter = Reporter(io.StringIO(), lambda: None, clock)
    progress = reporter.progress()
    progress.start(0, "tensor")
    progress.finish()
    assert progress.text() == "[########################] 0/0 tensors"


def test_quick_work_leaves_no_trace_in_a_file(clock):
    stream = io.StringIO()
    reporter = Reporter(stream, lambda: None, clock)
    progress = reporter.progress()
    progress.start(3, "tensor")
    for done in (1, 2, 3):
        progress.advance(done)
    progress.finish()
    assert stream.getvalue() == ""


def test_the_interrupt_check_is_passed_on(clock):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reporter(io.StringIO(), stop, clock).progress().check_interrupt()


def test_log_messages_stand_above_the_moving_line(clock):
    stream = Screen()
    reporter = Reporter(stream, lambda: None, clock)
    reporter.show("working")
    ReporterHandler(reporter).emit(logging.LogRecord("graft", logging.WARNING, "", 0, "short of %s", ("memory",), None))
    assert stream.getvalue().endswith("working\r\x1b[2Kwarning: short of memory\n")


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (9.96, "10.0 s"), (59.6, "1:00"), (185, "3:05"), (7385, "2:03:05")])
def test_durations(seconds, text):
    assert duration(seconds) == text
