"""What a comparison is: data sets, protocols and models by name, in one TOML file.

title = "Groceries"
reference = "kgrank"

[data.shop]
source = "tables"
interactions = ["interactions.csv"]

[protocols.next]
protocol = "leave-one-out"

[models.itemknn]
baseline = "itemknn"

[models.kgrank]
config = "../shop.toml"

[models.no-graph]
like = "kgrank"
overrides = { "model.layers" = 0 }
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.baselines import BASELINES
from model.case import SplitConfig
from model.compare.data import DataConfig
from model.compare.noise import NoiseConfig
from model.settings import read_toml, validated
from model.splits import question_names

MODELS = "models"
"""The group of what stands beside each other; other groups are variants of one model."""


Accuracy = Literal[
    "ndcg@5",
    "ndcg@10",
    "ndcg@20",
    "hr@5",
    "hr@10",
    "hr@20",
    "recall@10",
    "recall@20",
    "recall_capped@10",
    "mrr@10",
]
"""What tells how good a list is."""

Metric = Literal[Accuracy, "novelty@10", "diversity@10"]
"""What every user has a value of."""

METRICS: tuple[str, ...] = get_args(Metric)
"""What a table has of every model, with intervals; coverage@10, which is of all lists together, has none."""


class ModelSpec(BaseModel):
    """A model of a comparison: a baseline, a configuration of ours, or a variant of another one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("", description="what a report calls it; its name by default")
    baseline: str | None = Field(None, description="name of a baseline")
    config: Path | dict[str, Path] | None = Field(
        None, description="configuration file of ours, or one for each data set; relative to the comparison"
    )
    like: str | None = Field(None, description="another model that this is a variant of")
    overrides: dict[str, Any] = Field({}, description="settings that differ, by dotted keys")
    by_data: dict[str, dict[str, Any]] = Field({}, description="further overrides, for a data set")
    by_protocol: dict[str, dict[str, Any]] = Field({}, description="further overrides, for a protocol")
    search: tuple[dict[str, Any], ...] = Field(
        (), description="overrides to choose from on validation, by the first seed; the first may be empty"
    )
    trials: int | None = Field(None, ge=1, description="configurations tried for this baseline, instead of `trials`")
    seeds: int | None = Field(None, ge=1, description="only the first so many of the comparison's seeds")
    tried_before: int = Field(
        0, ge=0, description="configurations tried on validation to get to this one, outside of this run"
    )
    graph: Literal["true", "shuffled", "none"] = Field(
        "true", description="facts as they are, dealt out anew within each relation, or none"
    )
    each_relation: bool = Field(False, description="a variant for each relation of the data set, which it leaves out")
    noise: NoiseConfig | None = Field(None, description="what is wrong with the data")
    noise_at: Literal["training", "scoring", "both"] = Field(
        "training",
        description="training: in what is learned from; scoring: in what a finished model is asked with; both: in both",
    )
    group: str = Field(MODELS, description="table of the report that it stands in, beside the reference")
    data: tuple[str, ...] = Field((), description="only on these data sets")
    protocols: tuple[str, ...] = Field((), description="only in these protocols")

    @model_validator(mode="after")
    def _one_kind(self) -> "ModelSpec":
        if sum(kind is not None for kind in (self.baseline, self.config, self.like)) != 1:
            raise ValueError("exactly one of baseline, config and like is needed")
        return self


def _not_for_baselines(spec: ModelSpec) -> str:
    """Return why a baseline, or what is like one, can't be as it is declared; nothing if it can."""
    noise = spec.noise
    if spec.overrides or spec.by_data or spec.by_protocol or spec.search or spec.each_relation:
        return "a baseline has no overrides: it is tuned by itself"
    if noise and spec.noise_at == "scoring" and (noise.titles or noise.facts_removed or noise.facts_wrong):
        return "noise_at = 'scoring' with titles or facts is for models of ours: a baseline has no finished catalogue"
    if noise and spec.noise_at != "scoring" and noise.events:
        return "noise in the events that are learned from is for models of ours: some baselines know users by them"
    return ""


class Goal(BaseModel):
    """What a model is to reach: at least a value, a share of its own figure, or a lead over the best baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    protocol: str
    question: str = Field("", description="which question of the protocol; the first by default")
    model: str = Field("", description="the reference by default")
    metric: Literal[Metric, "coverage@10"] = "ndcg@10"
    at_least: float | None = Field(None, description="the value to reach")
    share: float | None = Field(None, gt=0, description="share of the same model's figure in the question `of`")
    of: str = Field("", description="the question that `share` is a share of")
    above: float | None = Field(None, ge=0, description="relative lead over the best of the others (0.05: 5 %)")
    above_only: str = Field("", description="the one model that `above` looks at, instead of the best baseline")

    @model_validator(mode="after")
    def _one_goal(self) -> "Goal":
        if sum(goal is not None for goal in (self.at_least, self.share, self.above)) != 1:
            raise ValueError("exactly one of at_least, share and above is needed")
        if self.share is not None and not self.of:
            raise ValueError("share needs the question that it is a share of")
        return self


class CompareConfig(BaseModel):
    """One comparison."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("Comparison", min_length=1)
    name: str = Field("", description="short name, for folders; that of the file by default")
    data_folder: Path = Field(Path(), description="what paths of data are relative to; relative to the comparison")
    data: dict[str, DataConfig] = Field(min_length=1)
    protocols: dict[str, SplitConfig] = Field(min_length=1)
    models: dict[str, ModelSpec] = Field(min_length=1)
    reference: str = Field("", description="the model that all others are compared with")
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = Field(
        (1,), min_length=1, description="training runs of every model"
    )
    trials: int | None = Field(
        None, ge=1, description="configurations tried for each baseline, by draws from its space; its grid when unset"
    )
    threads: int = Field(0, ge=0, le=1024, description="processor threads of baselines; 0: the library's choice")
    metric: Accuracy = Field("ndcg@10", description="what plots and comparisons look at")
    resamples: int = Field(5000, ge=100, le=1_000_000, description="bootstrap draws")
    goals: tuple[Goal, ...] = ()

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands there twice: one training would count as two")
        return seeds

    @model_validator(mode="after")
    def _names_are_known(self) -> "CompareConfig":
        def known(what: str, names: Any, of: Any) -> None:
            for name in names:
                if name and name not in of:
                    raise ValueError(f"{what} {name!r} is not one of {', '.join(of)}")

        known("reference", [self.reference], self.models)
        for spec in self.models.values():
            known("baseline", [spec.baseline], BASELINES)
            known("like", [spec.like], self.models)
            known("data set", [*spec.data, *spec.by_data], self.data)
            known("protocol", [*spec.protocols, *spec.by_protocol], self.protocols)
            if isinstance(spec.config, dict):
                known("data set", spec.config, self.data)
        for goal in self.goals:
            known("data set", [goal.data], self.data)
            known("protocol", [goal.protocol], self.protocols)
            known("question", [goal.question, goal.of], question_names(self.protocols[goal.protocol]))
            known("model", [goal.model, goal.above_only], self.models)
        return self

    @model_validator(mode="after")
    def _every_model_can_be_made(self) -> "CompareConfig":
        for name, spec in self.models.items():
            line = [name]
            while (like := self.models[line[-1]].like) is not None:
                if like in line:
                    raise ValueError(f"like goes in a circle: {' is like '.join([*line, like])}")
                line.append(like)
            is_baseline = self.models[line[-1]].baseline is not None
            if spec.trials and not is_baseline:
                raise ValueError(f"model {name!r}: trials are for baselines: a model of ours has a search")
            if is_baseline and (refused := _not_for_baselines(spec)):
                raise ValueError(f"model {name!r}: {refused}")
        return self

    @model_validator(mode="after")
    def _configurations_are_there_for_all_data(self) -> "CompareConfig":
        for name, spec in self.models.items():
            root = self.root(name)
            if self.models[root].baseline and self.reference:
                root = self.root(self.reference)  # whose relations and text encoder a baseline has
            files = self.models[root].config
            for data in spec.data or self.data:
                if isinstance(files, dict) and data not in files:
                    raise ValueError(
                        f"model {root!r} has no config for data set {data!r}, where model {name!r} needs it: "
                        f"add one, or keep {name!r} to other data sets by `data`"
                    )
        return self

    def root(self, name: str) -> str:
        """Return the model that another is like in the end: a baseline, or a configuration of ours."""
        like = self.models[name].like
        return name if like is None else self.root(like)


def read_comparison(file: Path) -> CompareConfig:
    """Read a comparison.

    Raises:
        ConfigError: the file is not there or malformed, or a value is out of range.
    """
    config = validated(CompareConfig, read_toml(file), file)
    return config if config.name else config.model_copy(update={"name": file.stem})
