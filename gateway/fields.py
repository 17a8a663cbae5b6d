"""What all declared fields have in common: a type named by an annotation, and a description from the protos."""

from typing import Any

from strawberry.types.field import StrawberryField

from gateway import descriptions
from gateway.names import Wanted, annotation, wanted


class GraphField(StrawberryField):
    """A field as a class of the graph declares it. `settle` tells it where it stands; it stands nowhere else."""

    owner: Any = None
    """The descriptor of the message it stands on; None on a type that is no message."""
    wanted: Wanted

    def settle(self, owner: Any, name: str, text: object) -> None:
        """Takes the field's place and type; TypeError when the message cannot give that."""
        self.owner, self.python_name = owner, name
        self.wanted = wanted(text)
        self.check(f"{owner.full_name if owner is not None else 'a root'}.{name}")
        if self.description is None:
            self.description = self.described()
        self.text = str(text)

    def check(self, where: str) -> None:
        """Raises TypeError when the declaration cannot be met."""

    def described(self) -> str | None:
        """What the protos say of it."""
        field = self.owner.fields_by_name.get(self.python_name) if self.owner is not None else None
        return descriptions.of_field(field) if field is not None else descriptions.PLAIN.get(self.python_name)

    def resolve_annotation(self) -> None:
        """Reads the annotation as a name of the graph (Strawberry reads it as one of the module)."""
        self.type_annotation = annotation(self.text)
