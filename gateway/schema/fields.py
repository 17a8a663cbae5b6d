"""Base class of all declared fields: a type named by an annotation, a description from the protos, and the size of a list."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from strawberry.types.field import StrawberryField

from gateway.schema import descriptions
from gateway.schema.registry import AnnotationInfo, parse_annotation, strawberry_annotation
from quanyu.access.v1 import access_pb2


class GraphField(StrawberryField):
    """A field of a type of the graph. It belongs to one type, to which `bind` attaches it."""

    owner: Any = None
    """The descriptor of the message that the type shows; None for a type without a message."""
    annotation_info: AnnotationInfo
    list_size: int = 0
    """The cost of the field counts this many items; 0 for a field that is not a list."""

    def bind(self, owner: Any, name: str, annotation: object) -> None:
        """Attaches the field to its type. Raises TypeError if the message does not fit the annotation, or a list has no size."""
        self.owner, self.python_name = owner, name
        self.annotation_info = parse_annotation(annotation)
        where = f"{owner.full_name if owner is not None else 'a root'}.{name}"
        self.validate(where)
        if self.annotation_info.is_list and not self.list_size:
            field = self.proto_field()
            self.list_size = field.GetOptions().Extensions[access_pb2.list_size] if field is not None else 0
            if self.list_size < 1:
                raise TypeError(f"{where} is a list: set (quanyu.access.v1.list_size) in its proto, or list_size in its declaration.")
        if self.description is None:
            self.description = self.default_description()
        self.annotation_text = str(annotation)

    def validate(self, where: str) -> None:
        """Raises TypeError if the message does not fit the declaration."""

    def proto_field(self) -> FieldDescriptor | None:
        """The field of a message whose value it returns, if there is one."""
        return self.owner.fields_by_name.get(self.python_name) if self.owner is not None else None

    def default_description(self) -> str | None:
        """The description from the protos, for a declaration without one."""
        field = self.proto_field()
        return descriptions.describe_field(field) if field is not None else descriptions.DEFAULT_DESCRIPTIONS.get(self.python_name)

    def resolve_annotation(self) -> None:
        """Makes Strawberry resolve the annotation as a name of the graph instead of a name of the module."""
        self.type_annotation = strawberry_annotation(self.annotation_text)
