"""The base class of all declared fields: a type named by an annotation, a description from the protos, and a size if it is a list."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from strawberry.types.field import StrawberryField

from gateway.schema import descriptions
from gateway.schema.registry import Wanted, annotation, wanted
from quanyu.access.v1 import access_pb2


class GraphField(StrawberryField):
    """A field as a class of the graph declares it. `settle` gives it its place, which is the only one."""

    owner: Any = None
    """The descriptor of the message it stands on; None on a type that is no message."""
    wanted: Wanted
    list_size: int = 0
    """A list is priced as this many items; 0 for a field that is no list."""

    def settle(self, owner: Any, name: str, text: object) -> None:
        """Takes the field's place and type; TypeError when the message cannot give that, or when a list has no size."""
        self.owner, self.python_name = owner, name
        self.wanted = wanted(text)
        where = f"{owner.full_name if owner is not None else 'a root'}.{name}"
        self.check(where)
        if self.wanted.many and not self.list_size:
            shown = self.shown()
            self.list_size = shown.GetOptions().Extensions[access_pb2.list_size] if shown is not None else 0
            if self.list_size < 1:
                raise TypeError(f"{where} is a list: set (quanyu.access.v1.list_size) in its proto, or list_size in its declaration")
        if self.description is None:
            self.description = self.described()
        self.text = str(text)

    def check(self, where: str) -> None:
        """Raises TypeError when the declaration cannot be met."""

    def shown(self) -> FieldDescriptor | None:
        """The field of a message whose value it shows."""
        return self.owner.fields_by_name.get(self.python_name) if self.owner is not None else None

    def described(self) -> str | None:
        """Its description in the protos."""
        field = self.shown()
        return descriptions.of_field(field) if field is not None else descriptions.PLAIN.get(self.python_name)

    def resolve_annotation(self) -> None:
        """Reads the annotation as a name of the graph (Strawberry reads it as one of the module)."""
        self.type_annotation = annotation(self.text)
