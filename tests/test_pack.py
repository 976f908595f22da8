"""The pack as ComfyUI sees it: loaded under a name of its own, with nothing heavy at import; the engine without ComfyUI."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    """Runs Python in a fresh process outside the project folder and returns what it prints."""
    with TemporaryDirectory() as empty:  # any other folder might hold another `graft`
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=empty, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_folder_loads_under_another_name_with_graft_blocked():
    printed = run(f"""
        import importlib.util, sys
        sys.modules["graft"] = None  # any `import graft` fails now
        name, path = "custom_nodes_7f3a", r"{ROOT}"
        spec = importlib.util.spec_from_file_location(name, path + "/__init__.py", submodule_search_locations=[path])
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        print(len(module.NODE_CLASS_MAPPINGS), set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS))
        assert not any(key == "graft" or key.startswith("graft.") for key in sys.modules if sys.modules[key] is not None)
    """)
    count, same = printed.split()
    assert int(count) >= 14 and same == "True"


def test_importing_the_root_loads_nothing_heavy():
    assert run("import sys, graft; print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])") == "[]"


HEAVY = (
    "cv2", "peft", "diffusers", "transformers", "accelerate", "bitsandbytes", "safetensors.torch", "scipy", "matplotlib", "PIL", "pandas", "aiohttp",
    "torchvision", "triton", "sympy", "multiprocessing.pool", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.testing",
    "torch.distributed.fsdp", "torch.distributed.tensor", "graft.nodes.headless.cli", "graft.nodes.server", "graft.training.bench",
    "graft.training.trainable.lora_inject", "graft.training.models.nano.make_base",
)  # fmt: skip
"""What takes long to import, and rooms that only a command or a training enters."""


def test_importing_the_nodes_loads_nothing_heavy_beyond_torch():
    """ComfyUI's start waits for it: the bar is 0.3 s beyond torch, and what is imported decides."""
    printed = run(f"""
        import sys, torch, numpy
        before = set(sys.modules)
        import graft
        assert graft.NODE_CLASS_MAPPINGS
        new = set(sys.modules) - before
        print([heavy for heavy in {HEAVY!r} if any((name + ".").startswith(heavy + ".") for name in new)])
        print(sorted({{name.partition(".")[0] for name in new}} - set(sys.stdlib_module_names)))
    """)
    loaded, packages = printed.splitlines()
    assert loaded == "[]"
    assert packages in ("['graft']", "['graft', 'numpy']")  # what numpy puts off until it is asked for


def test_importing_the_nodes_reads_code_alone_and_starts_nothing():
    """Neither weights nor settings nor help pages: a slow disk of models does not hold up ComfyUI's start."""
    printed = run("""
        import sys, threading, torch, numpy
        opened = []
        sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
        import graft
        assert graft.NODE_CLASS_MAPPINGS
        print([path for path in opened if ".py" not in path], threading.active_count())
    """)
    assert printed == "[] 1"


def test_the_engine_imports_no_comfyui():
    """Every module of training/ is imported while all of ComfyUI's own modules, and our nodes, are blocked."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "training").rglob("*.py"))]
    wanted = [f"graft.{name}" for name in modules if not name.endswith("__init__") and "diffusers" not in name]
    assert len(wanted) > 50
    run(f"""
        import importlib, sys
        for name in ("comfy", "folder_paths", "server", "nodes", "execution", "comfy_extras", "comfy_api", "graft.nodes"):
            sys.modules[name] = None
        for name in {wanted!r}:
            importlib.import_module(name)
    """)


@pytest.mark.parametrize("word", ["torch", "opencv"])
def test_dependencies_leave_the_hosts_own_alone(word: str):
    """Inside ComfyUI torch is the host's, and a second OpenCV package would break the first."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = next(line for line in text.splitlines() if line.startswith("dependencies"))
    assert word not in dependencies and "numpy" in dependencies


def test_every_shipped_workflow_has_its_picture_and_every_package_is_listed():
    for workflow in (ROOT / "workflows").glob("*.json"):
        assert workflow.with_suffix(".jpg").is_file(), workflow.name
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for init in [*ROOT.glob("nodes/**/__init__.py"), *ROOT.glob("training/**/__init__.py")]:
        package = ".".join(("graft", *init.parent.relative_to(ROOT).parts))
        assert f'"{package}"' in text, package
