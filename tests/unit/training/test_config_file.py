"""A YAML file and flags into one config, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.config import LoraSettings, TrainingConfig
from ingraft.training.config_file import read_config, resolve, to_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text("model: base\ndata: rows.csv\nlora:\n  r: 4\nlearning-rate: 1e-4\noverwrite: true\n")
    return path


def test_flags_file_defaults_in_that_order(file: Path) -> None:
    config = resolve(file, {("output",): Path("out"), ("lora", "alpha"): 8, ("overwrite",): False})
    assert config == TrainingConfig("base", "rows.csv", Path("out"), learning_rate=1e-4, lora=LoraSettings(4, 8))


def test_a_printed_config_is_that_config(file: Path, tmp_path: Path) -> None:
    config = resolve(file, {("output",): Path("öut")})
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config), encoding="utf-8")
    assert resolve(again, {}) == config


def test_who_is_to_blame(file: Path) -> None:
    with pytest.raises(UnusableInput, match=r"^output is missing"):
        resolve(file, {})
    file.write_text("modell: base\n")
    with pytest.raises(UnusableInput, match=r"train\.yaml: modell is no setting \(nearest: model\)"):
        resolve(file, {("output",): Path("out")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds nothing"),
        ("- a\n- b\n", "holds a list"),
        ("a: [1,\nb: 2", "is not YAML: .* in line 2"),
        ("a: \udcff", "is not UTF-8"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UnusableInput, match=f"bad.yaml {message}"):
        read_config(path)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not exist") as error:
        read_config(tmp_path / "none.yaml")
    assert "ingraft init" in error.value.hint
    with pytest.raises(UnusableInput, match="is a directory"):
        read_config(tmp_path)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UnusableInput, match="is not YAML"):
        read_config(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", ["!!int x", "!!float x", "!!timestamp x", "!!bool x", "0x_", "[" * 5000])
def test_values_that_do_not_fit_their_tag(value: str, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(f"model: {value}")

    with pytest.raises(UnusableInput, match=r"t\.yaml is (not YAML|nested too deeply)"):
        read_config(file)


@pytest.mark.parametrize("text", ["loss_arguments: &a {b: *a}", "more_data: &a [*a]"])
def test_values_that_contain_themselves(text: str, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)

    with pytest.raises(UnusableInput, match="contains itself"):
        read_config(file)


def test_aliases_of_aliases_of_aliases(tmp_path: Path) -> None:
    """Few bytes that stand for a billion values."""
    file = tmp_path / "t.yaml"
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    file.write_text("\n".join(lines))

    with pytest.raises(UnusableInput, match="more than 200,000 values"):
        read_config(file)


def test_a_date_is_text(tmp_path: Path) -> None:
    """It may be the name of a directory; and no record could hold it in JSON."""
    file = tmp_path / "t.yaml"
    file.write_text("model: 2020-13-45\ndata: 2020-01-31\noutput: x\nloss_arguments: {scale: 2020-01-31}")
    config = resolve(file, {})

    assert (config.model, config.data, config.loss_arguments) == ("2020-13-45", "2020-01-31", {"scale": "2020-01-31"})


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("model: a\ndata: b\noutput: c\nepochs: 1\nlora:\n  r: 4\nepochs: 2\n")

    with pytest.raises(UnusableInput, match=r"t\.yaml is not YAML: .*'epochs' for the second time in line 7"):
        read_config(file)


def test_a_number_that_no_float_holds(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(f"model: a\ndata: b\noutput: c\nepochs: 0x{'f' * 290}")

    with pytest.raises(UnusableInput, match=r"t\.yaml: epochs is '\d{60}'; expected a number"):
        resolve(file, {})


def test_a_flag_that_is_yaml_with_an_odd_value() -> None:
    with pytest.raises(UnusableInput, match=r"--columns is 'a: !!int x'; expected a list or a mapping as YAML"):
        resolve(None, {("model",): "a", ("data",): "b", ("output",): "c", ("columns",): "a: !!int x"})
