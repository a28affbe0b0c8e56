"""How flags read in `--help`: TEXT instead of STR, and INT instead of {None}|INT."""

from dataclasses import replace
from types import NoneType
from typing import get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

REGISTRY = ConstructorRegistry()
"""For every call of tyro."""


@REGISTRY.primitive_rule
def name_text(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read text, and call it TEXT."""
    if info.type is not str:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="TEXT",
        instance_from_str=lambda args: args[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


@REGISTRY.primitive_rule
def hide_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read one value or `None`, and show the value alone; choices still list None."""
    options = [one for one in get_args(info.type) if one is not NoneType]
    if len(options) != 1 or NoneType not in get_args(info.type):
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(options[0], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec) or inner.nargs != 1 or inner.choices is not None:
        return None
    return replace(
        inner,
        instance_from_str=lambda args: None if args == ["None"] else inner.instance_from_str(args),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
    )
