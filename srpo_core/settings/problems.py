"""What is trained on and what is held out: the lab's problems, or data sets."""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from srpo_core.problems.known import DATASETS
from srpo_core.problems.templates import Template
from srpo_core.settings.section import PositiveInt, Section


class LabSettings(Section):
    """The lab: problems that are made, not read."""

    source: Literal["lab"] = "lab"
    """Where the problems come from; `lab` is the procedural world of docs/lab.md, the default."""
    train: PositiveInt = 80
    """Training problems per difficulty and domain."""
    heldout: PositiveInt = 60
    """Held-out problems per difficulty and domain. None of them is ever trained on, by content."""
    template: Template = "plain"
    """How a question becomes a prompt: as it is, with instructions for the tags, by the chat template, or `auto`: by
    the chat template where the tokenizer has one. See docs/models.md."""


class DatasetSettings(Section):
    """One data set: by name, by file, or both (the name says how the file's rows are read)."""

    name: str | None = None
    """Name of a known data set (docs/data.md). Without a `path` it is looked for in the folder that the
    environment variable SRPO_DATA names, then on the Hugging Face hub."""
    path: str | None = None
    """A JSONL, JSON or Parquet file, or a folder that has a split in a file of its name."""
    split: str | None = None
    """Split of a known data set; one that has a single split needs none."""
    limit: PositiveInt | None = None
    """This many problems, drawn by the run's seed; more are the same ones and others. Without it, all."""
    difficulties: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Difficulty classes that count (labelled data: 1 easy, 2 medium, 3 hard; MATH: its levels); none named, all."""
    domain: Literal["math", "code"] | None = None
    """Domain of a file's problems, where it has no column `domain`."""
    columns: dict[str, str] = Field(default={})
    """The file's own names of columns, by ours: `{question: prompt, answer: target}`. docs/data.md has ours."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in DATASETS:
            close = difflib.get_close_matches(name, DATASETS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"there is no known data set of this name; {hint}known: {', '.join(DATASETS)}")
        return name

    @model_validator(mode="after")
    def _sufficient(self) -> Self:
        if self.name is None:
            if self.path is None:
                raise ValueError("a data set needs a `name`, or the `path` of a file")
            if self.split is not None:
                raise ValueError("`split` belongs to a known data set; a file of your own is one")
            return self
        if self.domain is not None or self.columns:
            raise ValueError(f"data set {self.name} has its own domain and columns: leave out `domain` and `columns`")
        splits = list(DATASETS[self.name].splits)
        if self.split not in (splits if len(splits) > 1 else [*splits, None]):
            raise ValueError(f"`split` of {self.name} must be one of {', '.join(splits)}")
        return self


class DataSettings(Section):
    """Data sets, by name or from files."""

    source: Literal["datasets"]
    """`datasets` are published ones by name, or files of your own: docs/data.md."""
    train: tuple[DatasetSettings, ...]
    """What is trained on; stage 1 takes the math problems, stage 2 adds the code. Without code the run ends after
    stage 1."""
    heldout: tuple[DatasetSettings, ...]
    """What is evaluated on, and never trained on."""
    overlap: Literal["drop", "refuse"] = "drop"
    """What happens to a training problem that a held-out one resembles (docs/data.md tells the rule): it is left out
    and counted, or the run is refused."""
    template: Template = "think_answer"
    """How a question becomes a prompt: as it is, with instructions for the tags, by the chat template, or `auto`: by
    the chat template where the tokenizer has one. See docs/models.md."""

    @field_validator("train", "heldout")
    @classmethod
    def _some(cls, sources: tuple[DatasetSettings, ...]) -> tuple[DatasetSettings, ...]:
        if not sources:
            raise ValueError("must name a data set at least")
        return sources


def _source(value: Any) -> Any:
    return value.get("source", "lab") if isinstance(value, dict) else getattr(value, "source", None)


ProblemSettings = Annotated[
    Annotated[LabSettings, Tag("lab")] | Annotated[DataSettings, Tag("datasets")], Discriminator(_source)
]
"""The problems of a run, told apart by `source`; without one, the lab's."""
