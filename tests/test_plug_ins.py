"""What is not ours by name: class paths and plug-ins; and what importing any of it costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from processes import new_python
from toys import llama

import anyoptim


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no_such_package.optim:Thing", anyoptim.MissingPackageError, "does not import"),
        ("torch.optim:AdamV", anyoptim.UnknownOptimizerError, "Did you mean 'Adam"),
        ("torch.nn:Linear", anyoptim.UnknownOptimizerError, "no optimizer 'Linear'"),
        ("torch.optim.AdamW", anyoptim.UnknownOptimizerError, "Write a class path as torch.optim:AdamW"),
        (".optim:AdamW", anyoptim.UnknownOptimizerError, "not a class path"),
        ("torch.optim:", anyoptim.UnknownOptimizerError, "not a class path"),
        (":AdamW", anyoptim.UnknownOptimizerError, "not a class path"),
    ],
)
def test_class_paths_that_do_not_work(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        anyoptim.optimizer_info(path)


@pytest.mark.usefixtures("restored_registry")
def test_a_class_path_calls_no_function_that_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strangers_module.py").write_text(
        "import torch, anyoptim\n"
        "def bare(params, lr=0.1):\n    raise SystemExit('called')\n"
        "@anyoptim.register('strangers_sgd')\n"
        "def known(params, lr=0.1):\n    return torch.optim.SGD(params, lr=lr)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in ("strangers_module:bare", "os:system", "torch:compile"):
        with pytest.raises(anyoptim.UnknownOptimizerError, match=r"names a subclass of torch\.optim\.Optimizer"):
            anyoptim.get_optimizer(path, llama())
    assert type(anyoptim.get_optimizer("strangers_module:known", llama())) is torch.optim.SGD


def test_class_paths_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('imported')\n")
    program = (
        "import os, anyoptim\n"
        "os.environ['ANYOPTIM_CLASS_PATHS'] = 'off'\n"
        "for name in ('strangers_module:Thing', 'lookahead(strangers_module:Thing)', 'muon+strangers_module:Thing'):\n"
        "    try:\n"
        "        anyoptim.optimizer_info(name)\n"
        "    except anyoptim.UnknownOptimizerError as error:\n"
        "        print('ANYOPTIM_CLASS_PATHS=off allows registered names only' in str(error))\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["True"] * 3


def test_threads_find_names_before_the_catalogue_is_loaded(tmp_path: Path) -> None:
    plugin(tmp_path, name="slow", value="plugged:Plugged", source=(
        "import time, torch\ntime.sleep(0.2)\nclass Plugged(torch.optim.SGD): pass\n"
    ))  # fmt: skip
    program = (
        "import sys, threading, anyoptim\n"
        "sys.setswitchinterval(1e-5)\n"
        "found, start = [], threading.Barrier(8)\n"
        "def look():\n"
        "    start.wait()\n"
        "    found.append((anyoptim.optimizer_info('adamw_torch').name, len(anyoptim.list_optimizers()),\n"
        "                  anyoptim.optimizer_info('slow').name))\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]\n"
        "print(len(found), len(set(found)))\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["8", "1"]


def test_a_class_path_is_strict_about_arguments() -> None:
    optimizer = anyoptim.get_optimizer("torch.optim:NAdam", llama(), optim_args="momentum_decay=0.01,beta1=0.8")
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    with pytest.raises(anyoptim.OptimArgsError, match="Did you mean 'momentum_decay'"):
        anyoptim.get_optimizer("torch.optim:NAdam", llama(), optim_args="momentum_decai=0.01")


def plugin(folder: Path, *, name: str, value: str, source: str) -> None:
    """Install a plug-in package as pip would leave it: a module and a dist-info folder."""
    (folder / "plugged.py").write_text(source)
    info = folder / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[anyoptim.optimizers]\n{name} = {value}\n")


def test_a_plug_in_is_there_without_being_imported(tmp_path: Path) -> None:
    plugin(
        tmp_path,
        name="plugged_sgd",
        value="plugged:Plugged",
        source="import torch\nclass Plugged(torch.optim.SGD):\n"
        "    def __init__(self, params, lr=0.1, momentum=0.0):\n"
        "        super().__init__(params, lr=lr, momentum=momentum)\n",
    )
    program = (
        "import anyoptim, sys\n"
        "assert 'plugged_sgd' in anyoptim.list_optimizers()\n"
        "assert 'plugged' not in sys.modules\n"
        "import torch\n"
        "optimizer = anyoptim.get_optimizer('plugged_sgd', torch.nn.Linear(2, 2), optim_args='momentum=0.5')\n"
        "print(type(optimizer).__module__, optimizer.param_groups[0]['momentum'])\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["plugged", "0.5"]


def test_a_broken_plug_in_is_one_warning(tmp_path: Path) -> None:
    plugin(tmp_path, name="broken", value="plugged:Nothing", source="raise RuntimeError('no luck')\n")
    program = (
        "import anyoptim, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        try:\n"
        "            anyoptim.optimizer_info('broken')\n"
        "        except anyoptim.UnknownOptimizerError:\n"
        "            pass\n"
        "    anyoptim.optimizer_info('sgd')\n"
        "print(len(caught), 'no luck' in str(caught[0].message))\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["1", "True"]


def test_a_plug_in_whose_spec_takes_a_name_that_exists(tmp_path: Path) -> None:
    source = "import anyoptim\nSPEC = anyoptim.optimizer_info('sgd')\n"
    plugin(tmp_path, name="cuckoo", value="plugged:SPEC", source=source)
    program = (
        "import anyoptim, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    try:\n"
        "        anyoptim.optimizer_info('cuckoo')\n"
        "    except anyoptim.UnknownOptimizerError:\n"
        "        print('its spec is called' in str(caught[0].message))\n"
    )
    assert new_python(program, path=tmp_path).stdout.strip() == "True"


def test_a_plug_in_does_not_take_a_name_that_exists(tmp_path: Path) -> None:
    plugin(tmp_path, name="sgd", value="plugged:Nothing", source="")
    program = "import anyoptim; print(anyoptim.optimizer_info('sgd').package)"
    assert new_python(program, path=tmp_path).stdout.strip() == "torch"


def test_importing_anyoptim_is_light() -> None:
    program = (
        "import sys, json, anyoptim\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'numpy', 'rich', 'typer'}\n"
        "first = sorted(heavy & set(sys.modules))\n"
        "anyoptim.list_optimizers(); anyoptim.optimizer_info('apollo_adamw')\n"
        "anyoptim.parse_optim_args('rank=4', 'apollo_adamw')\n"
        "print(json.dumps([first, sorted(heavy & set(sys.modules))]))\n"
    )
    assert json.loads(new_python(program).stdout) == [[], []]


def test_a_package_is_imported_when_it_is_built() -> None:
    program = (
        "import sys, torch, anyoptim\n"
        "model = torch.nn.Linear(2, 2)\n"
        "plan = anyoptim.plan('schedule_free_sgd', model)\n"
        "assert 'schedulefree' not in sys.modules and 'transformers' not in sys.modules\n"
        "plan.build()\n"
        "assert 'schedulefree' in sys.modules and 'transformers' not in sys.modules\n"
    )
    new_python(program)


def test_an_import_that_configures_logging_is_undone() -> None:
    """grokadamw calls logging.basicConfig(level=INFO) when it is imported."""
    program = (
        "import logging, torch, anyoptim\n"
        "anyoptim.get_optimizer('grokadamw', torch.nn.Linear(2, 2), implementation='upstream')\n"
        "root = logging.getLogger()\n"
        "assert not root.handlers and root.level == logging.WARNING, root\n"
    )
    new_python(program)


@pytest.mark.parametrize(
    ("name", "module", "pip"),
    [
        ("apollo_adamw", "apollo_torch", r"pip install 'anyoptim\[apollo\]'"),
        ("grokadamw", "grokadamw", r"pip install 'anyoptim\[grokadamw\]'"),
        ("schedule_free_sgd", "schedulefree", "pip install schedulefree"),
    ],
)
def test_a_missing_package(name: str, module: str, pip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(anyoptim.MissingPackageError, match=pip) as caught:
        anyoptim.get_optimizer(name, llama(), optim_args="rank=4" if name.startswith("apollo") else None,
                               optim_target_modules="all-linear" if name.startswith("apollo") else None,
                               implementation="upstream")  # fmt: skip
    assert isinstance(caught.value, ImportError)
    spec = anyoptim.optimizer_info(name)
    assert not next(each for each in spec.implementations if each.name == "upstream").installed
    assert (name in anyoptim.list_optimizers(installed=False)) is (spec.default.name == "upstream")


STRANGE = {
    "None": ("THING = None\n", "is no class and no function"),
    "a number": ("THING = 3\n", "is no class and no function"),
    "an instance": ("import torch\nTHING = torch.optim.SGD([torch.ones(2)])\n", "is no class and no function"),
    "exits": ("raise SystemExit('no licence')\n", "no licence"),
    "a base exception": ("class Odd(BaseException): pass\nraise Odd('odd')\n", "odd"),
    "another name": (
        "import dataclasses, anyoptim\nTHING = dataclasses.replace(anyoptim.optimizer_info('sgd'), name='other')\n",
        "its spec is called 'other'",
    ),
    "an alias that exists": (
        "import dataclasses, anyoptim\n"
        "THING = dataclasses.replace(anyoptim.optimizer_info('sgd'), name='strange', aliases=('adamw_torch',))\n",
        "'adamw_torch' exists already",
    ),
    "no implementation": (
        "import anyoptim\nfrom anyoptim.names.spec import OptimizerSpec\nTHING = OptimizerSpec('strange', '', (3,))\n",
        "something else than implementations",
    ),
    "empty": (
        "from anyoptim.names.spec import OptimizerSpec\nTHING = OptimizerSpec('strange', '', ())\n",
        "does not load",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_strange_plug_in_is_one_warning_and_its_name_is_gone(case: str, tmp_path: Path) -> None:
    source, message = STRANGE[case]
    plugin(tmp_path, name="strange", value="plugged:THING", source=source)
    program = (
        "import anyoptim, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for ask in (anyoptim.plan, anyoptim.get_optimizer):\n"
        "        try:\n"
        "            ask('strange', None)\n"
        "        except anyoptim.UnknownOptimizerError as error:\n"
        "            assert \"No optimizer is called 'strange'\" in str(error)\n"
        "        else:\n"
        "            raise AssertionError\n"
        "assert 'strange' not in anyoptim.list_optimizers() and anyoptim.optimizer_info('sgd').name == 'sgd'\n"
        "assert [str(each.message) for each in caught if 'strange' in str(each.message)] == [str(caught[0].message)]\n"
        f"assert {message!r} in str(caught[0].message), caught[0].message\n"
    )
    new_python(program, path=tmp_path)


def test_a_plug_in_that_the_user_stops(tmp_path: Path) -> None:
    plugin(tmp_path, name="strange", value="plugged:THING", source="raise KeyboardInterrupt\n")
    program = (
        "import anyoptim\n"
        "try:\n    anyoptim.optimizer_info('strange')\n"
        "except KeyboardInterrupt:\n    print('stopped')\n"
    )  # fmt: skip
    assert new_python(program, path=tmp_path).stdout.strip() == "stopped"


def test_entry_points_that_are_no_names_and_packages_without_metadata(tmp_path: Path) -> None:
    source = "import torch\nprint('hello')\nclass Fine(torch.optim.SGD): pass\n"
    plugin(tmp_path, name="fine", value="plugged:Fine", source=source)
    info = tmp_path / "plugged-1.0.dist-info"
    (info / "METADATA").unlink()
    with (info / "entry_points.txt").open("a") as file:
        file.write(f"{'x' * 5000} = plugged:Fine\nodd = plugged:\nodder = :::\nworse = ..\n")
    program = (
        "import anyoptim, torch, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "assert {'fine', 'odd', 'odder'} <= set(anyoptim.list_optimizers())\n"
        "assert anyoptim.list_optimizers(installed=True)\n"
        "for name in ('odd', 'odder', 'worse'):\n"
        "    try:\n        anyoptim.optimizer_info(name)\n"
        "    except anyoptim.UnknownOptimizerError:\n        pass\n"
        "    else:\n        raise AssertionError(name)\n"
        "print(type(anyoptim.get_optimizer('fine', torch.nn.Linear(2, 2))).__name__)\n"
    )
    assert new_python(program, path=tmp_path).stdout.split() == ["hello", "Fine"]


@pytest.mark.parametrize("source", ["raise SystemExit(3)\n", "class Odd(BaseException): pass\nraise Odd\n", "1/0\n"])
def test_a_package_that_does_not_import(source: str, tmp_path: Path) -> None:
    (tmp_path / "schedulefree.py").write_text(source)
    program = (
        "import anyoptim, torch\n"
        "try:\n    anyoptim.get_optimizer('schedule_free_sgd', torch.nn.Linear(2, 2), implementation='upstream')\n"
        "except anyoptim.MissingPackageError as error:\n    print('does not import here' in str(error))\n"
    )
    assert new_python(program, path=tmp_path).stdout.strip() == "True"


def test_a_module_that_raises_for_what_it_has_not(tmp_path: Path) -> None:
    source = "import torch\nclass Fine(torch.optim.SGD): pass\ndef __getattr__(name):\n    raise RuntimeError(name)\n"
    (tmp_path / "late.py").write_text(source)
    program = (
        "import anyoptim\n"
        "try:\n    anyoptim.optimizer_info('late:Fin')\n"
        "except anyoptim.UnknownOptimizerError as error:\n    print(\"Did you mean 'Fine'\" in str(error))\n"
    )
    assert new_python(program, path=tmp_path).stdout.strip() == "True"
