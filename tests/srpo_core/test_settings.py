"""Properties of the settings: every mistake is answered with its place and with what is allowed."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from srpo_core.config import Settings
from srpo_core.settings_file import SettingsError, dump_settings, load_settings
from srpo_core.settings_reference import sections_of


def written(directory: Path, text: str) -> Path:
    (path := directory / "settings.yaml").write_text(text)
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}"])
def test_an_empty_file_gives_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_settings(written(tmp_path, text)) == Settings()


def test_what_is_written_holds_and_the_rest_are_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "rollout:\n  group_size: 16\nstages:\n  transition: {window: 5}\n")
    settings = load_settings(path)
    assert (settings.rollout.group_size, settings.stages.transition.window) == (16, 5)
    assert settings.update == Settings().update
    assert settings.stages.math == Settings().stages.math


@pytest.mark.parametrize(
    ("text", "place", "hint", "allowed"),
    [
        ("rollout: {group_sise: 8}", "rollout.group_sise", "did you mean group_size?", "temperature"),
        ("rolout: {}", "rolout", "did you mean rollout?", "evaluation"),
        ("stages: {transition: {windw: 3}}", "stages.transition.windw", "did you mean window?", "min_gain"),
        ("stages: {math: {max_step: 3}}", "stages.math.max_step", "did you mean max_steps?", "max_steps"),
    ],
)
def test_an_unknown_setting_is_answered_with_its_place_the_nearest_and_the_allowed(
    tmp_path: Path, text: str, place: str, hint: str, allowed: str
) -> None:
    message = complaint(path := written(tmp_path, text))
    assert str(path) in message
    assert f"  {place}: there is no such setting; {hint} allowed here: " in message
    assert allowed in message.partition("allowed here: ")[2]


def test_an_unknown_setting_that_resembles_none_is_answered_without_a_guess(tmp_path: Path) -> None:
    message = complaint(written(tmp_path, "update: {qqq: 1}"))
    assert "did you mean" not in message
    assert "learning_rate" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rollout: {group_size: many}", ["rollout.group_size: ", "valid integer", "(got 'many')"]),
        ("rollout: {group_size: 2.5}", ["rollout.group_size: ", "integer", "(got 2.5)"]),
        ("rollout: {group_size: [8]}", ["rollout.group_size: ", "valid integer", "(got [8])"]),
        ("rollout: {group_size: }", ["rollout.group_size: ", "valid integer", "(got None)"]),
        ("update: {mask_truncated: 7}", ["update.mask_truncated: ", "boolean", "(got 7)"]),
        ("update: {advantage: best}", ["update.advantage: ", "'group_std'", "'leave_one_out'", "(got 'best')"]),
        ("rollout: 8", ["rollout: ", "RolloutSettings", "(got 8)"]),
        ("policy: {device: tpu}", ["policy.device: ", "'cpu' or 'cuda'", "(got 'tpu')"]),
        ("resampling: {selector: best}", ["resampling.selector: ", "history_readmit", ".sql", "(got 'best')"]),
        ("seed: 2024-01-01", ["seed: ", "valid integer"]),
        ("1: 2", ["1: ", "strings"]),
        ("rollout: {on: 2}", ["rollout.", "strings", "(got True)"]),
    ],
)
def test_a_value_of_the_wrong_kind_is_answered_with_its_place_and_the_right_kind(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    message = complaint(written(tmp_path, text))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("override", "bound"),
    [
        ("rollout.group_size=1", "greater than or equal to 2"),
        ("rollout.temperature=0", "greater than 0"),
        ("rollout.temperature=4.1", "less than or equal to 4"),
        ("rollout.max_staleness=-1", "greater than or equal to 0"),
        ("seed=-1", "greater than or equal to 0"),
        ("seed=9223372036854775808", "less than 9223372036854775808"),
        ("update.learning_rate=0", "greater than 0"),
        ("update.learning_rate=.inf", "finite"),
        ("update.learning_rate=.nan", "finite"),
        ("update.max_grad_norm=.inf", "finite"),
        ("update.beta1=1", "less than 1"),
        ("update.beta2=1.0", "less than 1"),
        ("update.beta2=-0.1", "greater than or equal to 0"),
        ("update.clip_low=1.1", "less than or equal to 1"),
        ("stages.math.max_steps=0", "greater than or equal to 1"),
        ("keep_policies=0", "greater than or equal to 1"),
    ],
)
def test_a_value_out_of_bounds_is_answered_with_its_place_and_the_bound(
    tmp_path: Path, override: str, bound: str
) -> None:
    message = complaint(written(tmp_path, ""), override)
    assert f"  {override.partition('=')[0]}: " in message
    assert bound in message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["update.minibatches=33"], ["update.minibatches (33)", "rollout.prompts_per_step (32)"]),
        (["rollout.max_staleness=2"], ["keep_policies (2)", "rollout.max_staleness (2)"]),
        (["policy.dtype=bfloat16"], ["policy.dtype bfloat16", "policy.device cuda"]),
    ],
)
def test_settings_that_contradict_each_other_are_answered_with_both(
    tmp_path: Path, overrides: list[str], parts: list[str]
) -> None:
    message = complaint(written(tmp_path, ""), *overrides)
    assert all(part in message for part in parts), message
    assert "Value error" not in message


def test_every_mistake_is_answered_at_once(tmp_path: Path) -> None:
    message = complaint(written(tmp_path, "sed: 1\nrollout: {group_size: 1, temperature: hot}\n"))
    assert len(message.splitlines()) == 4
    assert all(place in message for place in ("sed", "rollout.group_size", "rollout.temperature"))


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        (["rollout.group_size=16"], 16),
        (["rollout.group_size=16", "rollout.group_size=32"], 32),
        (["rollout={group_size: 12}"], 12),
        ([], 4),
    ],
)
def test_overrides_stand_over_the_file_and_the_last_one_wins(tmp_path: Path, overrides: list[str], value: int) -> None:
    assert load_settings(written(tmp_path, "rollout: {group_size: 4}"), overrides).rollout.group_size == value


@pytest.mark.parametrize("text", ["2e-4", "0.0002", "2.0e-04"])
def test_a_learning_rate_is_read_however_it_is_written(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"update: {{learning_rate: {text}}}")
    assert load_settings(path).update.learning_rate == 2e-4
    assert load_settings(written(tmp_path, ""), [f"update.learning_rate={text}"]).update.learning_rate == 2e-4


@pytest.mark.parametrize("override", ["rollout.group_size", "", "=5", "rollout.=5", ".group_size=5", "a..b=1"])
def test_an_override_that_is_not_an_assignment_is_answered_with_the_form(tmp_path: Path, override: str) -> None:
    message = complaint(written(tmp_path, ""), override)
    assert message.startswith(f"--set {override}: ")
    assert "section.field=value" in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed.low=5", "seed is a value, not a section"),
        ("rollout.group_size=[1", "'[1' is not a YAML value"),
        ("rollout.group_size=a: b: c", "not a YAML value"),
        ("seed=2024-99-99", "'2024-99-99' is not a YAML value"),
    ],
)
def test_an_override_that_cannot_be_applied_is_answered_with_itself(tmp_path: Path, override: str, part: str) -> None:
    message = complaint(written(tmp_path, "seed: 1"), override)
    assert message.startswith(f"--set {override}: ")
    assert part in message


@pytest.mark.parametrize(
    "content",
    [b"rollout: {group_size: 4", b"a:\n\t- b", b"\xff\xfe\x00", b"\x00", b"seed: 2024-99-99", b"- a\nb: c", b"a: *b"],
)
def test_a_file_that_is_not_yaml_is_answered_with_its_name(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "settings.yaml").write_bytes(content)
    assert f"{path}: is not YAML" in complaint(path)


@pytest.mark.parametrize("text", ["[1, 2]", "seed", "17", "!!set {a}"])
def test_a_file_without_sections_is_answered_with_what_it_holds(tmp_path: Path, text: str) -> None:
    assert "settings.yaml: " in complaint(written(tmp_path, text))


def test_a_missing_file_and_a_directory_are_answered_with_their_place(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"
    assert "cannot be read" in complaint(tmp_path)


@given(text=st.text(max_size=60), override=st.text(max_size=30))
def test_whatever_is_written_gives_settings_or_an_answer(
    tmp_path_factory: pytest.TempPathFactory, text: str, override: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for overrides in ([], [override], [f"seed={override}"]):
        with suppress(SettingsError):
            assert isinstance(load_settings(path, overrides), Settings)


finite = st.floats(min_value=1e-300, max_value=1e300)


@given(
    seed=st.integers(0, 2**63 - 1),
    model=st.text(st.characters(blacklist_categories=["Cs"]), max_size=20),
    temperature=st.floats(min_value=1e-3, max_value=4),
    learning_rate=finite,
    beta=st.floats(0, 1, exclude_max=True),
    group_size=st.integers(2, 10**12),
    check_thought=st.booleans(),
    template=st.sampled_from(["plain", "think_answer", "chat"]),
)
def test_settings_that_are_written_down_are_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    model: str,
    temperature: float,
    learning_rate: float,
    beta: float,
    group_size: int,
    check_thought: bool,
    template: str,
) -> None:
    settings = Settings.model_validate(
        {
            "seed": seed,
            "policy": {"model": model},
            "problems": {"template": template},
            "rollout": {"temperature": temperature, "group_size": group_size},
            "rewards": {"check_thought": check_thought},
            "update": {"learning_rate": learning_rate, "beta1": beta},
        }
    )
    path = tmp_path_factory.getbasetemp() / "round trip.yaml"
    path.write_text(dump_settings(settings), encoding="utf-8")
    assert load_settings(path) == settings
    assert dump_settings(load_settings(path)) == dump_settings(settings)


def test_settings_do_not_change_once_they_are_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().rollout.group_size = 3  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    waiting: list[type[BaseModel]] = [Settings]
    while waiting:
        section = waiting.pop()
        assert section.__doc__
        for name, field in section.model_fields.items():
            inner = sections_of(field)
            waiting += inner.values()
            assert inner or field.description, f"{section.__name__}.{name}"
