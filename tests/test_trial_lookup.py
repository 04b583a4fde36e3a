"""A trial by a person's name for it: EXPERIMENT:VARIANT:SEED wherever a command takes a trial, beside ids and files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_lab import naming
from gfl_lab.errors import InputError
from gfl_lab.records.files import read_json, write_json
from gfl_lab.records.plan import read_plan
from gfl_lab.rundir import RunTree, TrialState
from gfl_lab.session.trial_lookup import find_trial, trial_or_file
from tests.support.cli import Cli, runner
from tests.support.fake_runs import write_fake_tree

NAME, FILE = "table3_qfl_dfl", Path(__file__).parents[1] / "experiments" / "table3_qfl_dfl.yaml"
SEEDS = (0, 1, 7)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> RunTree:
    """Four variants with three seeds; one trial is interrupted. ``lone`` is another experiment with one seed."""
    root = tmp_path_factory.mktemp("named")
    write_fake_tree(root, seeds=SEEDS, states={(3, 7): TrialState.INTERRUPTED}, epochs=1, train_images=4, val_images=1)
    return write_fake_tree(root, name="lone", epochs=1, train_images=4, val_images=1, rng_seed=1)


@pytest.fixture
def cli(tree: RunTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("GFL_LAB_HOME", str(tree.root))
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def trial_id(tree: RunTree, variant: str, seed: int, name: str = NAME, profile: str = "desk") -> str:
    """The id in the plan."""
    (found,) = (each for each in read_plan(tree.experiment(name, profile) / naming.PLAN).variants if each.name == variant)
    return next(trial.id for trial in found.trials if trial.seed == seed)


@pytest.mark.parametrize(
    ("text", "variant", "seed"),
    [
        (f"{NAME}:qfl=on dfl=off:1", "qfl=on dfl=off", 1),
        (f"{FILE}:qfl=on dfl=off:7", "qfl=on dfl=off", 7),
        (f"{NAME}@desk:qfl=off dfl=off:0", "qfl=off dfl=off", 0),
        (f"{FILE}@desk:qfl=off dfl=off:0", "qfl=off dfl=off", 0),
        (f"{NAME}:dfl=on qfl=off:0", "qfl=off dfl=on", 0),
        (f"{NAME}:on dfl=on:07", "qfl=on dfl=on", 7),
    ],
)
def test_a_trial_is_found_by_experiment_variant_and_seed(tree: RunTree, text: str, variant: str, seed: int) -> None:
    assert find_trial(tree, text).id == trial_id(tree, variant, seed)
    assert trial_or_file(tree, text) == find_trial(tree, text)


def test_the_seed_may_be_left_out_where_there_is_one(tree: RunTree) -> None:
    assert find_trial(tree, "lone:qfl=on dfl=on").id == trial_id(tree, "qfl=on dfl=on", 0, "lone")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{NAME}:qfl=on dfl=on:3", ["variant 'qfl=on dfl=on' of table3_qfl_dfl has no seed 3", "Known: 0, 1, 7."]),
        (f"{NAME}:qfl=on dfl=on", ["has 3 seeds", f"Add the seed: '{NAME}:qfl=on dfl=on:0'. Known: 0, 1, 7."]),
        (f"{NAME}:qfl=on dfl=on:x", ["the seed 'x' of table3_qfl_dfl:qfl=on dfl=on:x is no whole number", "0, 1, 7"]),
        (f"{NAME}:qfl=on dfl=on:", ["the seed ''", "Write digits"]),
        (f"{NAME}:giou:0", ["table3_qfl_dfl has no variant 'giou'", "'qfl=off dfl=off', 'qfl=on dfl=off'"]),
        (f"{NAME}:qfl=on:0", ["2 variants of table3_qfl_dfl have 'qfl=on' in their name", "'qfl=on dfl=on'"]),
        (f"{NAME}:", ["names no variant", f"Write {NAME}:VARIANT:SEED", "'qfl=on dfl=on'"]),
        (NAME, ["is an experiment, not a trial", f"Write {NAME}:VARIANT:SEED", "'qfl=on dfl=on'"]),
        ("lane:qfl=on dfl=on", ["names no trial: there is no experiment 'lane'", "Did you mean 'lone'?"]),
        ("table2b_reg_max:n=8:0", ["has not been run under", "gfl-lab run table2b_reg_max"]),
        (f"{NAME}@smoke:qfl=on dfl=on:0", ["has not been run on profile smoke", "It is there on: desk."]),
        ("nothing", ["no trial's id begins with nothing", "Write EXPERIMENT:VARIANT:SEED, or an id", "gfl-lab status"]),
    ],
)
def test_a_wrong_name_is_refused_with_what_there_is(tree: RunTree, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        find_trial(tree, text)
    assert raised.value.exit_code == 2 and all(word in str(raised.value) for word in words), str(raised.value)


def test_of_several_profiles_one_must_be_named(tmp_path: Path) -> None:
    for number, profile in enumerate(("desk", "tiny")):
        tree = write_fake_tree(tmp_path, name="mine", profile=profile, epochs=1, train_images=4, val_images=1, rng_seed=number)
    with pytest.raises(InputError, match="on several profiles\n.*Write mine@desk:VARIANT:SEED. Profiles: desk, tiny."):
        find_trial(tree, "mine:qfl=on dfl=on:0")
    for profile in ("desk", "tiny"):
        assert find_trial(tree, f"mine@{profile}:qfl=on dfl=on:0").id == trial_id(tree, "qfl=on dfl=on", 0, "mine", profile)


def test_the_trials_of_a_search_have_ids_alone(tmp_path: Path) -> None:
    tree = write_fake_tree(tmp_path, name="hunt", epochs=1, train_images=4, val_images=1)
    plan = tree.experiment("hunt", "desk") / naming.PLAN
    content = read_json(plan)
    write_json(plan, content | {"experiment": content["experiment"] | {"kind": "search"}})
    with pytest.raises(InputError, match="hunt is a search.*\n.*gfl-lab status hunt"):
        find_trial(tree, "hunt:qfl=on dfl=on:0")


def test_an_id_goes_first(tmp_path: Path) -> None:
    """An experiment may have a name like an id."""
    tree = write_fake_tree(tmp_path, name="abc", epochs=1, train_images=4, val_images=1)
    write_json(tree.trial("abc000000001").file(naming.MANIFEST), {})
    assert find_trial(tree, "abc").id == "abc000000001"
    assert find_trial(tree, "abc:qfl=on dfl=on").id == trial_id(tree, "qfl=on dfl=on", 0, "abc")


def renamed(tmp_path: Path, names: dict[str, str]) -> RunTree:
    """A tree whose experiment ``lone`` has other variants' names."""
    tree = write_fake_tree(tmp_path, name="lone", seeds=(0, 3), epochs=1, train_images=4, val_images=1)
    plan = tree.experiment("lone", "desk") / naming.PLAN
    content = read_json(plan)
    for variant in content["variants"]:
        variant["name"] = names.get(variant["name"], variant["name"])
    write_json(plan, content)
    return tree


def test_names_with_colons_are_split_from_both_ends(tmp_path: Path) -> None:
    names = {"qfl=on dfl=on": "detector=mmdet:fcos_r50", "qfl=on dfl=off": "arm", "qfl=off dfl=on": "arm:3"}
    tree = renamed(tmp_path, names)
    assert find_trial(tree, "lone:detector=mmdet:fcos_r50:3").id == trial_id(tree, "detector=mmdet:fcos_r50", 3, "lone")
    assert find_trial(tree, "lone:fcos:0").id == trial_id(tree, "detector=mmdet:fcos_r50", 0, "lone")
    assert find_trial(tree, "lone:arm:3:0").id == trial_id(tree, "arm:3", 0, "lone")
    assert find_trial(tree, "lone:arm:0").id == trial_id(tree, "arm", 0, "lone")
    with pytest.raises(InputError, match="variant 'arm:3' of lone has 2 seeds"):
        find_trial(tree, "lone:arm:3")


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> RunTree:
    return renamed(tmp_path_factory.mktemp("lone"), {})


@settings(max_examples=40)
@given(name=st.text("ab :=,@.3", min_size=1, max_size=12).filter(lambda name: name.strip() == name), seed=st.sampled_from((0, 3)))
def test_an_exact_name_with_its_seed_is_always_found(lone: RunTree, name: str, seed: int) -> None:
    """A variant's name may hold anything, also what looks like a seed or a profile."""
    plan = lone.experiment("lone", "desk") / naming.PLAN
    content = read_json(plan)
    content["variants"][3]["name"] = name
    write_json(plan, content)
    trials = {each["seed"]: each["id"] for each in content["variants"][3]["trials"]}
    assert find_trial(lone, f"lone:{name}:{seed}").id == trials[seed]


def test_a_file_goes_before_a_name(tree: RunTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and experiments in files with colons in their names."""
    monkeypatch.chdir(tmp_path)
    Path(f"{NAME}:weights.pth").write_bytes(b"")
    assert trial_or_file(tree, f"{NAME}:weights.pth") is None
    Path(NAME).mkdir()
    shutil.copy(FILE, "my:table@home.yaml")
    found = find_trial(tree, "my:table@home.yaml@desk:qfl=on dfl=on:1")
    assert found == find_trial(tree, "my:table@home.yaml:qfl=on dfl=on:1") == find_trial(tree, f"{NAME}:qfl=on dfl=on:1")


# --- commands ---------------------------------------------------------------------------------------


def test_diff_takes_names(cli: Cli, tree: RunTree) -> None:
    code, out, err = cli("diff", f"{NAME}:qfl=on dfl=off:0", f"{NAME}:qfl=on dfl=on:0")
    assert code == 0 and "dfl" in out, err
    assert trial_id(tree, "qfl=on dfl=off", 0) in out and trial_id(tree, "qfl=on dfl=on", 0) in out


@pytest.mark.parametrize("command", [["evaluate"], ["reproduce"], ["predict", "--out", "taken", "IMAGE"]])
def test_a_wrong_trial_is_the_first_thing_told(cli: Cli, command: list[str], tmp_path: Path) -> None:
    """`predict` told before that its picture could not be written."""
    (tmp_path / "taken").write_text("")
    name, *others = command
    code, out, err = cli(name, f"{NAME}:qfl=on dfl=on:3", *others)
    assert code == 2 and not out and "has no seed 3" in err and "taken" not in err and "IMAGE" not in err
    code, out, err = cli(name, f"{NAME}:qfl=on dfl=on:7", *others)
    assert code == 2 and not out and "was interrupted" in err and "Finish it first" in err and "taken" not in err
