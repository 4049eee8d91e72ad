"""One question a clip: fields as JSON, of which short and dense captions are derived, or plain text."""

from __future__ import annotations

from typing import ClassVar, Literal

from captioning import derive
from captioning.job import Role, Round
from captioning.prompt import Prompt, load
from captioning.recipes.base import Attempt, Draft, Recipe, Said, Try, with_complaint


class Single(Recipe):
    """The cheapest: what the pictures cost is paid once."""

    kind: Literal["single"] = "single"
    prompt: str = "structured-1"  # of captioning/prompts, or a file
    # fields: the JSON of captioning/structured.py. text: a paragraph, which is the dense caption; its first sentence is
    # the short one (for models that were trained to write paragraphs, as Tarsier2-Recap).
    answer: Literal["fields", "text"] = "fields"

    ROLES: ClassVar[tuple[Role, ...]] = ("pictures",)

    def prompts(self) -> dict[str, Prompt]:
        return {"prompt": load(self.prompt)}

    def attempt(self, this: Try) -> Attempt:
        prompt = with_complaint(this.prompts["prompt"].render(), this.complaint)
        answers = yield Round([this.request(prompt)])
        answer = answers[0]
        if answer.status == "failed":
            return Draft.failed(answer, answers)
        said, complaint = Said(dense=answer.text), ""
        if self.answer == "fields":
            try:
                said = Said(structured=derive.parse(answer.text))
            except ValueError as error:
                said, complaint = None, str(error)
        return Draft(said, answer.text, answer.finish, complaint=complaint, answers=tuple(answers))
