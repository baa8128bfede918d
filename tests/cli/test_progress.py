"""What long work says where there is no terminal, what the log file keeps, and how Ctrl+C ends it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import llm_server
from conftest import PHOTOS
from crossalign.cli._interruption import GRACE
from crossalign.cli._progress import LINE_SECONDS, Heartbeat, _duration
from systems import needs_posix

SCRIPT = Path(sys.executable).with_name("crossalign")
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def heartbeat(total):
    lines, clock = [], Clock()
    return Heartbeat(total, "images encoded", lines.append, clock), clock, lines


def test_a_line_says_how_far_how_fast_and_how_long_still():
    beat, clock, lines = heartbeat(50_000)
    clock.seconds = 301.0
    beat.update(12_400)
    assert lines == ["12,400 of 50,000 images encoded, 41.2/s, 15 min left"]


def test_lines_are_ten_seconds_apart_and_the_last_is_said_once():
    beat, clock, lines = heartbeat(100)
    at = []
    for second in range(1, 101):
        clock.seconds = float(second)
        beat.update(1)
        if len(lines) > len(at):
            at.append(second)
    assert at == list(range(10, 101, int(LINE_SECONDS)))
    beat.close()
    assert lines[0] == "10 of 100 images encoded, 1.0/s, 2 min left"
    assert lines[-1] == "100 of 100 images encoded, 1.0/s"
    assert len(lines) == 10


def test_short_work_gets_one_line():
    beat, clock, lines = heartbeat(4)
    for _ in range(3):
        clock.seconds += 1
        beat.update(1)
    beat.close()
    assert lines == ["3 of 4 images encoded, 1.0/s, 1 s left"]


def test_slow_work_is_told_by_the_minute():
    beat, clock, lines = heartbeat(3)
    clock.seconds = 60.0
    beat.update(1)
    assert lines == ["1 of 3 images encoded, 1.0/min, 2 min left"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5940, "99 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


def test_a_terminal_gets_a_bar():
    pty = pytest.importorskip("pty", reason="needs a terminal of POSIX")
    termios = pytest.importorskip("termios", reason="needs a terminal of POSIX")
    code = (
        "from crossalign.cli._progress import show_progress\n"
        "with show_progress(8, 'images encoded') as bar:\n"
        "    [bar.update(2) for _ in range(4)]"
    )
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True, timeout=60)
    os.close(terminal)
    shown = os.read(screen, 100_000).decode()
    os.close(screen)
    assert "100%|" in shown
    assert "8/8" in shown


# Real commands


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "cat"
    small = tmp_path_factory.mktemp("small") / "cat.png"
    folder.mkdir()
    # The first 256, which are kept together, are read fast, and those behind them leave time to interrupt.
    with Image.open(PHOTOS / "chelsea.png") as cat:
        cat.resize((90, 60)).save(small)
    for number in range(269):
        (folder / f"{number:03}.png").symlink_to(small if number < 256 else PHOTOS / "chelsea.png")
    (folder.parent / "cup of coffee").mkdir()
    shutil.copy(PHOTOS / "coffee.png", folder.parent / "cup of coffee")
    return folder.parent


def start(*words):
    """Start a command with Ctrl+C as a terminal's shell leaves it."""
    return subprocess.Popen(
        [SCRIPT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt(process):
    """Send Ctrl+C; returns output, errors and the seconds that it took to end."""
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert err.count("interrupted") == 1
    return out, err, time.monotonic() - sent


@pytest.mark.slow
@needs_posix
def test_classify_stops_at_once_and_what_it_printed_is_whole(photos, tmp_path):
    log = tmp_path / "run.log"
    log.write_text("from before\n")
    process = start("--log-file", log, "classify", photos, "--labels", "cat,dog", "--csv", "--views", 2)
    first = [process.stdout.readline() for _ in range(4)]
    out, err, seconds = interrupt(process)
    assert seconds < 2
    rows = ("".join(first) + out).splitlines()
    assert len(rows) < 2 * 270
    assert all(len(row.split(",")) == 7 for row in rows)
    assert err.endswith(
        "interrupted; encoded images are cached, unless --no-store was given: run the same command again to resume\n"
    )
    lines = log.read_text().splitlines()
    assert lines[0] == "from before"
    assert re.fullmatch(rf"{STAMP} INFO crossalign [\d.]+: crossalign --log-file \S+ classify \S+ --labels .*", lines[1])
    assert any(re.match(rf"{STAMP} INFO [\d,]+ of 270 images", line) for line in lines)
    assert re.fullmatch(rf"{STAMP} WARNING interrupted; .*", lines[-1])


@pytest.mark.slow
@needs_posix
def test_evaluate_goes_on_after_an_interruption(photos, tmp_path):
    command = ("evaluate", "--dataset", "folder", "--data-path", photos, "--views", 1, "--methods", "clip")
    command = (*command, "--store", tmp_path / "store")
    process = start(*command)
    wait_for(lambda: list(tmp_path.glob("store/views/*/shard-00000.safetensors")))
    _, err, seconds = interrupt(process)
    assert seconds < 2
    assert "finished images are saved, except the last few: run the same command again to resume" in err
    done = subprocess.run([SCRIPT, *map(str, command)], capture_output=True, text=True, timeout=120)
    assert "14 images encoded now, 256 cached before" in done.stderr
    assert "14 of 14 images encoded" in done.stderr


@pytest.fixture
def serve(tmp_path):
    yield from llm_server.serving(tmp_path)


@pytest.mark.slow
@needs_posix
def test_describe_keeps_the_answers_it_has(tmp_path, serve):
    output = tmp_path / "texts.json"
    names = ",".join(f"thing {number}" for number in range(60))
    log = tmp_path / "run.log"
    server = serve(delay=0.1)
    address = ("--base-url", server.url.replace("://", "://anna:secret@"), "--model", "made-up")
    process = start("--log-file", log, "describe", "--labels", names, "--output", output, *address)
    partial = output.with_name("texts.json.partial")
    wait_for(lambda: partial.exists() and partial.read_text().count('"class"') > 3)
    _, err, seconds = interrupt(process)
    assert seconds < 2
    assert "finished classes are saved: run the same command again to resume" in err
    assert 3 < partial.read_text().count('"class"') < 60
    assert "secret" not in log.read_text()


@pytest.mark.slow
@needs_posix
def test_a_call_that_python_cannot_leave_is_cut_off():
    code = (
        "import hashlib\nfrom crossalign.cli._interruption import quick_end\n"
        "with quick_end(lambda: 'describe'):\n"
        "    print('begun', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'a' * 64, b'b' * 64, 200_000_000)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)  # until it is in the call
    _, err, seconds = interrupt(process)
    assert GRACE < seconds < 2
    assert err == "\ninterrupted; finished classes are saved: run the same command again to resume\n"


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_the_log_keeps_an_error_with_its_traceback(tmp_path):
    log = tmp_path / "run.log"
    done = subprocess.run(
        [SCRIPT, "--log-file", log, "classify", "*.nothing", "--labels", "a,b"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    text = log.read_text()
    assert re.search(rf"^{STAMP} ERROR no file matches '\*\.nothing'; check the pattern$", text, re.MULTILINE)
    assert "Traceback (most recent call last):" in text


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    done = subprocess.run(
        [SCRIPT, "--log-file", tmp_path / "no" / "run.log", "methods"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "cannot be written (No such file or directory); choose another" in done.stderr
    assert "Traceback" not in done.stderr
