"""What every settings class shares: strict keys, frozen values, a docstring per field.

The docstrings reach editors through `study/schema.py`, which reads them from the source when asked: pydantic's own
`use_attribute_docstrings` parses every module at every import, a third of the time that importing them takes.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A settings object: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,  # no setting of ours means anything by them
        defer_build=True,  # validators are built on first use: most classes here are only parts of others
    )

    def __copy__(self) -> Self:
        """As pydantic's, of which most time goes into what no settings have: a plan makes twenty thousand copies."""
        assert self.__pydantic_extra__ is None and self.__pydantic_private__ is None
        made = type(self).__new__(type(self))
        for name, value in (
            ("__dict__", dict(self.__dict__)),
            ("__pydantic_fields_set__", set(self.__pydantic_fields_set__)),
            ("__pydantic_extra__", None),
            ("__pydantic_private__", None),
        ):
            object.__setattr__(made, name, value)
        return made


def neutral(default: Any, **constraints: Any) -> Any:
    """A field that cannot change a result (speed, logging, retention): it stays out of fingerprints."""
    return Field(default, json_schema_extra={"fingerprint": False}, **constraints)


def newer(**constraints: Any) -> Any:
    """A field that older studies did not have, None by default: part of fingerprints only where it is set, so that
    those studies keep their jobs."""
    return Field(None, json_schema_extra={"fingerprint": "unless default"}, **constraints)
