"""Experiment and profile files: every problem at once, each with its line and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gfl_lab.errors import SpecError
from gfl_lab.spec.files import find_profile, load_experiment, load_profile, load_published, resolve_settings
from gfl_lab.spec.settings import Settings
from gfl_lab.spec.source import read_value, read_yaml

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "exp.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_experiment(path)
    return [str(problem) for problem in caught.value.problems]


GOOD = "name: x\nprofile: desk\naxes:\n  qfl: [false, true]\n"


def test_every_shipped_file_loads() -> None:
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        experiment, _ = load_experiment(path)
        find_profile(experiment.profile, [EXPERIMENTS / "profiles"])
        if experiment.published_table:
            load_published(experiment.published_table, [EXPERIMENTS / "published"])
    for path in sorted((EXPERIMENTS / "profiles").glob("*.yaml")):
        load_profile(path)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD + "seedz: [0]\n", 5, ["unknown key 'seedz'", "'seeds'"]),
        (GOOD.replace("qfl:", "qlf:"), 4, ["unknown key 'qlf'", "'qfl'"]),
        (GOOD + "overrides: {epochs: twelve}\n", 5, ["epochs", "'twelve'", "integer"]),
        (GOOD + "overrides: {qfl: 1}\n", 5, ["qfl", "boolean"]),
        (GOOD + "overrides:\n  lr: .nan\n", 6, ["lr", "finite"]),
        ("name: x\nprofile: desk\naxes:\n  reg_max: [16, 0]\n", 4, ["reg_max is 0", "greater than or equal to 1"]),
        ("name: x\nprofile: desk\naxes:\n  qfl_beta:\n    - 2.0\n    - 0.5\n", 6, ["qfl_beta is 0.5", "0 or at least 1", "NaN"]),
        ("name: x\nprofile: desk\naxes:\n  qfl: [true, true]\n", 4, ["twice"]),
        ("name: x\nprofile: desk\naxes:\n  qfl: true\n", 4, ["qfl", "list"]),
        ("name: x\nprofile: desk\n", 1, ["nothing varies"]),
        ("name: ../x\nprofile: desk\naxes: {qfl: [true]}\n", 1, ["becomes a folder"]),
        (GOOD + "baseline: {qfl: 3}\n", 5, ["not among the axis' values"]),
        (GOOD + "baseline: {dfl: true}\n", 5, ["dfl"]),
        (GOOD + "seeds: [1, 1]\n", 5, ["once"]),
        (GOOD + "seeds: [-1]\n", 5, ["-1"]),
        (GOOD + "table: {metrics: [AP, APx]}\n", 5, ["'APx' is not a metric", "'AP'"]),
        (GOOD + "overrides: {qfl: true}\n", 5, ["an axis and also in overrides"]),
        (GOOD + "name: y\n", 5, ["given twice", "line 1"]),
    ],
)
def test_a_problem_names_line_rule_and_way_out(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    found = problems(tmp_path, text)
    matching = [problem for problem in found if all(word in problem for word in words)]
    assert matching, found
    assert matching[0].startswith(f"exp.yaml:{line}:") or (line == 1 and matching[0].startswith("exp.yaml")), matching


def test_two_problems_are_both_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = problems(tmp_path, "name: x\nprofil: desk\naxes:\n  reg_max: [0]\noverrides: {epocs: 1}\n")
    text = "\n".join(found)
    assert "'profil'" in text and "reg_max is 0" in text and "'epocs'" in text and "'profile' is missing" in text
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)


HEAD = "name: a\nprofile: desk\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "axes: {lr: [2020-01-01]}",
        HEAD + "axes: {lr: [!!set {a, b}]}",
        HEAD + "axes: {image_size: [[2020-01-01, 3]]}",
        HEAD + "axes: {dfl: [true]}\nwhen: {1: {dfl: true}}",
        HEAD + "axes: {dfl: [true]}\ntable: {rows: [[1]], metrics: [{a: 1}]}",
        HEAD + "variants: {a: {dfl: true}}\nbaseline: {a: 1}",
        HEAD + "variants: {a: {dfl: true}}\nbaseline: [a]",
        HEAD + 'variants: {"x\\ny": {dfl: true}}',
        HEAD + 'variants: {"": {dfl: true}}',
        'name: "a\\n"\nprofile: desk\naxes: {dfl: [true]}',
        "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(8)),
    ],
)
def test_odd_values_are_problems_and_no_traceback(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment\n", "- a\n", "a: [1\nb: 2\n", "\x00", "!!python/object/apply:os.system [ls]\n", "just words\n", "? [a]\n: b\n"],
)
def test_what_is_no_experiment_is_one_message(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("exp.yaml", "exp.yml", "."):
        with pytest.raises(SpecError):
            load_experiment(tmp_path / name)
    with pytest.raises(SpecError, match="Did you mean"):
        load_experiment(tmp_path / "exp.yml")


@given(st.text(max_size=200))
def test_no_text_gives_a_traceback(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exp.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        with pytest.raises(SpecError):
            load_experiment(path)


def test_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="desk"):
        find_profile("dsk", [EXPERIMENTS / "profiles"])


def test_profile_settings_are_checked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: p\ntitle: t\ndata: required\nsettings: {lrr: 1, epochs: 0}\n")
    with pytest.raises(SpecError) as caught:
        load_profile(tmp_path / "p.yaml")
    assert len(caught.value.problems) == 2


def test_lines_of_nested_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a:\n  b:\n    - x\n    - {c: 1}\n")
    source = read_yaml(path)
    assert source.lines[("a", "b", 1, "c")] == 4
    assert source.place("a", "b", 9) == "a.yaml:2: a.b.9"


def test_later_layers_win_and_defaults_are_the_papers() -> None:
    settings = resolve_settings({"lr": 0.1, "strides": [8, 16]}, {"lr": 0.2})
    assert settings.lr == 0.2 and settings.strides == (8, 16)
    paper = Settings()
    assert (paper.reg_max, paper.qfl_beta, paper.dfl_weight, paper.box_loss_weight, paper.epochs, paper.lr) == (
        16,
        2.0,
        0.25,
        2.0,
        12,
        0.01,
    )


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_beta_between_zero_and_one_is_refused(beta: float) -> None:
    with pytest.raises(ValidationError):
        Settings(qfl_beta=beta)


@pytest.mark.parametrize("values", [{"strides": [8, 32]}, {"strides": [64]}, {"image_size": [100, 200]}, {"head_channels": 12}])
def test_rules_between_settings(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        resolve_settings(values)


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text("name: x\nprofile: desk\naxes: {lr: [1e-4, 2.5E-3, 1.0e-2, -1e3]}\n")
    assert read_yaml(path).value["axes"]["lr"] == [1e-4, 2.5e-3, 1e-2, -1e3]
    path.write_text("name: 1e5x\nquestion: e5\nprofile: desk\n")
    assert read_yaml(path).value == {"name": "1e5x", "question": "e5", "profile": "desk"}


def test_the_docs_print_the_real_profile() -> None:
    text = (EXPERIMENTS.parent / "docs" / "experiment-files.md").read_text()
    assert f"```yaml\n{(EXPERIMENTS / 'profiles' / 'desk.yaml').read_text()}```" in text


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("8", 8), ("+8", 8), ("-0", 0), ("0x10", 16), ("0o10", 8), ("1e-4", 1e-4), (".5", 0.5), ("1.", 1.0), ("2.5E3", 2500.0), ("0", 0), ("0.10", 0.1),
        ("~", None), ("null", None), ("", None), ("true", True), ("FALSE", False), ("2026-11-27", "2026-11-27"), ("'on'", "on"), ('"010"', "010"),
        ("y", "y"), ("nO", "nO"), ("12:99", "12:99"), ("1.2.3", "1.2.3"), ("e5", "e5"), ("_1", "_1"), ("desk", "desk"), ("0b2", "0b2"),
    ],
)  # fmt: skip
def test_words_are_read_by_the_core_schema(word: str, value: object) -> None:
    found = read_value(word)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "spelling"),
    [
        ("010", "10"), ("08", "8"), ("-007", "-7"), ("00", "0"), ("0_1", "1"), ("1_000", "1000"), ("1_000.5", "1000.5"), ("0x1_0", "0x10"), ("0b11", "3"),
        ("1:30", "90"), ("012:30:45", "45045"), ("1:30.5", "90.5"), ("-1:30", "-90"), ("yes", "true"), ("On", "true"), ("NO", "false"), ("off", "false"),
    ],
)  # fmt: skip
def test_a_word_that_versions_of_yaml_read_differently_is_refused_with_its_plain_spelling(tmp_path: Path, word: str, spelling: str) -> None:
    told = problems(tmp_path, GOOD + f"overrides:\n  lr: {word}\n")
    assert told[0].startswith("exp.yaml:6: ") and "ambiguous" in told[0] and f"Write {spelling}, or '{word}' in quotes" in told[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "axes: &a {qfl: [*a]}", "stands inside of what it names"),
        ("a: " + "[" * 5000, "nested more than 40"),
        ("a: " + "{b: " * 5000, "nested more than 40"),
        ("\n".join(f"{'  ' * n}a:" for n in range(200)), "nested more than 40"),
        ("a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(8)), "more than 100,000 values"),
        ("a0: &a0 {}\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(60)), "nested more than 40"),
        (HEAD + "axes: {dfl: !!set {a}}", "tag !!set is not read"),
        (HEAD + "axes: {lr: [!!float 1]}", "tag !!float is not read"),
        (HEAD + "axes: {dfl: [true]}\noverrides: {lr: " + "9" * 5000 + "}", "at most 400"),
        (HEAD + "axes: {dfl: [true]}\noverrides: {lr: 1e400}", "too large"),
        (HEAD + "axes:\n\tdfl: [true]", "Indent with spaces"),
        (HEAD + "axes: {}", "axes is empty: nothing varies"),
        (HEAD + "variants: {}", "variants is empty: nothing varies"),
        (HEAD + "axes:", "axes is null"),
        (HEAD + "axes: {dfl: }", "axes.dfl is null: must be a list"),
        (HEAD + "axes: {dfl: []}", "axes.dfl is empty"),
        (HEAD + "axes: {dfl: [true]}\nseeds: []", "at least 1 entry"),
        (HEAD + "axes: {bin_width: [1, 1.0]}", "bin_width lists 1.0 twice (the first time as 1)"),
        (HEAD + "axes: {lr: [1e-4, 0.0001]}", "lr lists 0.0001 twice"),
        (HEAD + "axes: {image_size: [[128, 128], [128, 128]]}", "image_size lists [128, 128] twice"),
        (HEAD + "axes: {reg_max: [1, 8]}\nbaseline: {reg_max: true}", "not among the axis' values [1, 8]"),
    ],
)
def test_files_that_are_too_much_or_too_little(tmp_path: Path, text: str, words: str) -> None:
    assert any(words in problem for problem in problems(tmp_path, text))


def test_merges_and_aliases_are_read_with_lines(tmp_path: Path) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text("a: &a {b: 1, c: 2}\nd:\n  <<: *a\n  c: 3\ne: {<<: [*a, {f: 4}]}\n8: x\non: y\n")
    source = read_yaml(path)
    assert source.value == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2, "f": 4}, "8": "x", "on": "y"}
    assert source.lines[("d", "c")] == 4 and ("d", "b") in source.lines
