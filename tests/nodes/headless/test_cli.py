"""The command line: exit codes, plain messages, quick help, and Ctrl-C that lets the running node save."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from graft.nodes.headless.cli import main
from graft.nodes.host import current_host
from graft.nodes.registry import NODE_CLASS_MAPPINGS
from graft.training.errors import InputError, NotPassedError, StoppedTraining
from PIL import Image


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a picture, and a workflow that loads and saves it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAFT_INPUT", raising=False)
    (tmp_path / "input").mkdir()
    Image.new("RGB", (16, 8), (255, 0, 0)).save("input/red.png")
    Image.new("RGB", (16, 8), (0, 0, 255)).save("input/blue.png")
    nodes = [
        {"id": 1, "type": "LoadImage", "outputs": [{"type": "IMAGE"}, {"type": "MASK"}], "widgets_values": ["red.png", "image"]},
        {
            "id": 2,
            "type": "SaveImage",
            "title": "Save",
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "widgets_values": ["out"],
        },
    ]
    write("copy.json", {"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4})
    return tmp_path


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def colour(path):
    with Image.open(path) as image:
        return image.getpixel((0, 0))


def test_a_workflow_runs_into_the_folder_of_its_name(project, capsys):
    assert main(["run", "copy.json"]) == 0
    assert colour("out/copy/out_00001_.png") == (255, 0, 0)
    shown = capsys.readouterr()
    assert os.path.join("out", "copy", "out_00001_.png") in shown.out and "[2/2] Save (node 2)" in shown.err


def test_settings_and_output_folder(project):
    assert main(["run", "copy.json", "--set", "1.image=blue.png", "--set", "Save.filename_prefix=x.y", "--output", "here"]) == 0
    assert colour("here/x.y_00001_.png") == (0, 0, 255)


def test_api_format_bare_and_as_a_request(project):
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }
    write("bare.json", prompt)
    write("request.json", {"prompt": prompt, "client_id": "x"})
    assert [main(["run", name, "--output", "o"]) for name in ("bare.json", "request.json")] == [0, 0]
    assert sorted(os.listdir("o")) == ["a_00001_.png", "a_00002_.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "JSON"),
        ("\xff\xfe", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "ComfyUI workflow"),
        ("{}", "ComfyUI workflow"),
        ('{"last_node_id": 3}', "ComfyUI workflow"),
        ('{"nodes": [], "links": []}', "no node is an output"),
        ('{"1": {"class_type": "Face", "inputs": {}}}', "run this workflow in comfyui"),
        ('{"1": {"class_type": "Face", "inputs": []}}', "a table of inputs"),
    ],
)
def test_bad_files_end_with_2_and_a_plain_sentence(project, capsys, content, words):
    (project / "bad.json").write_bytes(content.encode("latin-1"))
    assert main(["run", "bad.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: workflow bad") and words.lower() in error.lower() and "Traceback" not in error
    assert not (project / "out").exists()


@pytest.mark.parametrize("arguments", [["gone.json"], ["copy.json", "--set", "5.x=1"], ["copy.json", "--set", "1.image=gone.png"]])
def test_bad_arguments_end_with_2(project, capsys, arguments):
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_output_that_is_a_file_is_refused_before_the_run(project, capsys):
    assert main(["run", "copy.json", "--output", "copy.json"]) == 2
    assert "--output" in capsys.readouterr().err


def test_shapes_writes_pictures_with_captions(project, capsys):
    assert main(["shapes", "data", "--count", "2", "--seed", "3", "--size", "64"]) == 0
    assert [len(list((project / "data").glob(pattern))) for pattern in ("*.png", "*.txt")] == [2, 2]
    assert main(["shapes", "data", "--count", "0", "--seed", "3"]) == 2
    assert main(["shapes", "data", "--count", "1", "--seed", "-3"]) == 2


def test_runs_of_an_empty_folder(project, capsys):
    assert main(["runs"]) == 0
    assert "No runs" in capsys.readouterr().out


def test_no_command_helps_and_the_version_is_told(project, capsys):
    from graft import __version__

    for arguments, said in (([], "COMMAND"), (["--version"], f"graft {__version__}\n")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0 and said in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["run"], ["data", "check"]])
def test_help_tells_the_exit_codes(project, capsys, command):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0" in said and "2 " in said.partition("Exit codes: 0")[2]


SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def test_help_and_inspect_need_no_torch(project):
    (project / "empty.safetensors").write_bytes(SAFETENSORS)
    script = (
        "import sys, graft.nodes.headless.cli as cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert cli.main(['inspect', 'empty.safetensors', '--json']) == 0\n"
        "assert not {'torch', 'numpy', 'cv2'} & set(sys.modules), set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for command in ("run", "inspect", "convert", "shapes", "bench", "runs"):
        assert f"    {command} " in done.stdout


def test_a_node_is_told_what_the_workflow_is_called(project, monkeypatch):
    class Asks:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE, names = (), "ask", True, []

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def ask(self):
            Asks.names.append(current_host().workflow_name())

    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Asks", Asks)
    write("my cats.json", {"1": {"class_type": "Asks", "inputs": {}}})
    assert main(["run", "my cats.json"]) == 0 and Asks.names == ["my cats"]


class Slow:
    """A node that works until it is told to stop; `saved` notes that it had its chance to save."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "train", True
    signal_number, saved = signal.SIGINT, False

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "hidden": {"id": "UNIQUE_ID"}}

    def train(self, id):
        progress = current_host().progress(id)
        progress.start(3, "step")
        try:
            for step in range(3):
                progress.check_interrupt()
                progress.advance(step + 1)
                signal.raise_signal(Slow.signal_number)
        finally:
            Slow.saved = True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_node_save(project, monkeypatch, capsys, number, code):
    before = signal.getsignal(number)
    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Slow", Slow)
    monkeypatch.setattr(Slow, "signal_number", number)
    monkeypatch.setattr(Slow, "saved", False)
    write("slow.json", {"1": {"class_type": "Slow", "inputs": {}}})
    assert main(["run", "slow.json"]) == code
    error = capsys.readouterr().err
    assert Slow.saved and "the running node saves what it has" in error and "the same command goes on from there" in error
    assert signal.getsignal(number) is before


def test_what_a_node_cannot_use_ends_with_2(project, monkeypatch, capsys):
    class Picky(Slow):
        def train(self, id):
            raise InputError("steps", expected="1 or more", found=0, remedy="Ask for one.")

    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Picky", Picky)
    write("picky.json", {"1": {"class_type": "Picky", "inputs": {}}})
    assert main(["run", "picky.json"]) == 2
    assert 'error: node 1 "Picky": steps: expected 1 or more' in capsys.readouterr().err


def test_an_error_of_ours_is_not_dressed_up_as_bad_input(project, monkeypatch):
    class Broken(Slow):
        def train(self, id):
            raise RuntimeError("a bug")

    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Broken", Broken)
    write("broken.json", {"1": {"class_type": "Broken", "inputs": {}}})
    with pytest.raises(RuntimeError, match="a bug"):
        main(["run", "broken.json"])


def test_a_training_that_cannot_go_on_is_told_in_plain_words(project, monkeypatch, capsys):
    class Broken(Slow):
        def train(self, id):
            raise StoppedTraining("Step 3 gave a loss of nan. What was trained before is kept.")

    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Broken", Broken)
    write("broken.json", {"1": {"class_type": "Broken", "inputs": {}}})
    assert main(["run", "broken.json"]) == 1
    assert "error: Step 3 gave a loss of nan" in capsys.readouterr().err


def test_a_result_below_its_bar_ends_with_1_and_is_told_with_its_node(project, monkeypatch, capsys):
    class Below(Slow):
        def train(self, id):
            raise NotPassedError("edge F1", expected="at least 0.90", found="0.1", remedy="Train more.")

    monkeypatch.setitem(NODE_CLASS_MAPPINGS, "Below", Below)
    write("below.json", {"1": {"class_type": "Below", "inputs": {}}})
    assert main(["run", "below.json"]) == 1
    assert 'error: node 1 "Below": edge F1: expected at least 0.90; found 0.1. Train more.' in capsys.readouterr().err


STUBBORN = """
import time
from graft.nodes.headless.interrupt import StopRequest
with StopRequest().listening():
    print("started", flush=True)
    time.sleep(60)
    print("again", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as POSIX has them")
def test_a_second_ctrl_c_ends_at_once(project):
    """The first one does not even wake a node that never looks."""
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n" and "Ctrl-C again" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == -signal.SIGINT


def test_convert_passes_its_arguments_on(project, monkeypatch, capsys):
    from graft.training.files import convert

    class Report:
        def explanation(self):
            return "was FP16"

    calls = []
    monkeypatch.setattr(convert, "convert_to_bf16", lambda *places, overwrite: calls.append((*places[:2], overwrite)) or Report())
    assert main(["convert", "a.safetensors", "b.safetensors", "--overwrite"]) == 0
    assert calls == [(Path("a.safetensors"), Path("b.safetensors"), True)] and "was FP16" in capsys.readouterr().out


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path, monkeypatch, capsys):
    """As `graft runs | head -1`, whose pipe has no reader any more."""
    monkeypatch.setenv("GRAFT_RUNS", str(tmp_path / "runs"))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["runs"]) == 1
    assert "error" not in capsys.readouterr().err
