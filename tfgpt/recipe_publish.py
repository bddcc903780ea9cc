"""What a recipe says of how its model is published in a store. The store itself checks the fields, before any work starts."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfgpt.recipe_checks import check, check_at_least, check_choices

PublishStage = Literal["draft", "staging", "production"]
"""The stage of a version from its beginning."""


@dataclass(frozen=True)
class PublishConfig:
    """The model's entry in a store (see `tfgpt store`)."""

    name: str = ""
    """Publish the exported model under this name, as its next version: small letters, digits, '.', '_' and '-'; empty = it is not published."""
    store: str = ""
    """The store's folder, where store:// of model.init and tokenizer.init is looked up too; empty = the environment's TFGPT_STORE, else ~/.tfgpt/store."""
    by: str = ""
    """Who publishes, and owns the name if it is new; empty = the machine's user."""
    stage: PublishStage = "draft"
    """The stage of the version; production takes the place of the one that is there."""
    private: bool = False
    """Whether a new name is shown over the network to its owner, the groups that are granted it, and administrators alone."""
    version: int = 0
    """The number that is expected, any other is refused; 0 = whichever is next."""
    task: str = ""
    """What the model is for, such as text-classification; empty = by task.kind."""
    licence: str = ""
    """Its short name, such as apache-2.0; empty = none is given."""
    languages: tuple[str, ...] = ()
    """Codes such as en and pt-BR."""
    tags: tuple[str, ...] = ()
    """Small letters, digits, '.', '_' and '-'."""
    card: str = ""
    """A file in Markdown; empty = a page is written."""

    def __post_init__(self):
        check_choices("publish", self)
        check_at_least("publish.version", self.version, 0, " (0 = whichever is next)")
        given = self.version or self.task or self.licence or self.languages or self.tags or self.card or self.stage != "draft"
        check(bool(self.name) or not given, "publish.name: empty, with other settings of what is published; give a name, or leave them out")
