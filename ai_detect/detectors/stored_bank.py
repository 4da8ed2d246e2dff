"""A `DetectorBank` as detectors.json holds it, checked when read; its arrays are in detectors.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ai_detect.artifacts import first_problem
from ai_detect.config import DetectionMethod, FusionMethod
from ai_detect.detectors.components import COMPONENTS, METHODS, components_of
from ai_detect.detectors.threshold import Rule

FORMAT = 1
#: Beyond any -ln p.
MOST_SURPRISED = 1e6


class _StoredThreshold(BaseModel):
    """A `Threshold`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    surprisal: float = Field(ge=0, le=MOST_SURPRISED)
    rule: Rule
    training_share: float = Field(ge=0, le=1)
    asked: float | None = Field(gt=0, le=1e9)

    @model_validator(mode="after")
    def _a_rule_has_its_number(self) -> _StoredThreshold:
        if (self.asked is None) != (self.rule in ("budget", "suspects")):
            raise ValueError(f"asked {self.asked} does not fit the rule {self.rule}")
        if self.rule == "fdr" and self.asked is not None and self.asked > 1:
            raise ValueError(f"fdr {self.asked} is not a share")
        return self


class _StoredMethod(BaseModel):
    """A `MethodFit`, but for its arrays."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    weights: dict[str, Annotated[float, Field(ge=0, le=1)]]
    threshold: _StoredThreshold


class StoredBank(BaseModel):
    """What `DetectorBank.state` gives beside the arrays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format_version: int = Field(ge=1, le=FORMAT)
    seed: int = Field(ge=0, lt=1 << 32)
    detection_method: DetectionMethod
    fusion_method: FusionMethod
    n_judged: int = Field(ge=1)
    n_calibrated: int = Field(ge=1)
    sessions_per_day: float | None = Field(gt=0)
    components: list[str]
    methods: dict[DetectionMethod, _StoredMethod]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StoredBank:
        """The checked values; raises ValueError where they are not those of this version's detectors and methods."""
        try:
            stored = cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"the model's detectors: {first_problem(error)}") from error
        if stored.components != sorted(component.name for component in COMPONENTS):
            raise ValueError("the model holds other detectors than this version of the program")
        if set(stored.methods) != set(METHODS):
            raise ValueError("the model holds other methods than this version of the program")
        for name, fit in stored.methods.items():
            if set(fit.weights) != {component.name for component in components_of(name)}:
                raise ValueError(f"the model's method '{name}' listens to other detectors than this version's")
        return stored
