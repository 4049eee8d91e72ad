"""CogVideoX's pipeline (arXiv 2408.06072, section 3.4): a short caption of the clip, captions of frames every two
seconds, and a language model that makes one chronological description of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from captioning.backend import Answer
from captioning.job import Pictures, Role, Round
from captioning.prompt import Prompt, load
from captioning.recipes.base import Attempt, Draft, Recipe, Said, Try, text_only, with_complaint
from captioning.structured import Structured


class Hierarchical(Recipe):
    """Dearer than `single`; for models that answer about pictures better than about videos."""

    kind: Literal["hierarchical"] = "hierarchical"
    prompt: str = "short-1"
    frame_prompt: str = "frame-1"
    summary_prompt: str = "summary-1"
    # Seconds from one frame that is described to the next; of the frames that `frames` takes the nearest ones are.
    every_s: float = Field(default=2.0, ge=0.1)
    most: int = Field(default=16, ge=1)  # frames that are described; of a longer clip evenly spaced ones

    ROLES: ClassVar[tuple[Role, ...]] = ("pictures", "text")

    def prompts(self) -> dict[str, Prompt]:
        return {
            "prompt": load(self.prompt),
            "frame_prompt": load(self.frame_prompt),
            "summary_prompt": load(self.summary_prompt, frozenset({"short", "frames"})),
        }

    def attempt(self, this: Try) -> Attempt:
        prompts = this.prompts
        answers: list[Answer] = []
        parts = dict(this.before.parts) if this.before else {}
        frames = self._described(this.pictures)
        questions = [] if "short" in parts else [this.request(prompts["prompt"].render(), part="short")]
        for _, picture in frames:
            if (part := f"frame {picture.indices[0]}") not in parts:
                questions.append(this.request(prompts["frame_prompt"].render(), picture, part))
        if questions:
            answers += yield Round(questions)
            for question, answer in zip(questions, answers, strict=True):
                if answer.status == "failed":
                    return Draft.failed(answer, answers)
                parts[question.key.partition("/")[2]] = answer.text
        told = [(second, _line(parts[f"frame {picture.indices[0]}"])) for second, picture in frames]
        short = _line(parts["short"])
        prompt = prompts["summary_prompt"].render(short=short, frames=told)
        asked = text_only(this.request(with_complaint(prompt, this.complaint), part="summary"))
        answers += yield Round([asked], by="text")
        if answers[-1].status == "failed":
            return Draft.failed(answers[-1], answers)
        dense = answers[-1].text
        events = tuple(dict.fromkeys(text for _, text in told if text))
        structured = Structured(summary=short, events=events) if any(map(str.isalpha, short)) else None
        return Draft(
            Said(structured, short, dense),
            dense,
            answers[-1].finish,
            answers=tuple(answers),
            parts=parts,
        )

    def _described(self, pictures: Pictures) -> list[tuple[str, Pictures]]:
        """(second as it is told, that one frame), in order of time: of the clip's frames those nearest to the steps."""
        if not pictures.indices:
            return []
        end = pictures.seconds[-1]
        steps = int(end / self.every_s) + 1
        wanted = [step * self.every_s for step in range(steps)]
        if steps > self.most:
            wanted = [end * step / max(1, self.most - 1) for step in range(self.most)]
        places = range(len(pictures.indices))
        nearest = dict.fromkeys(min(places, key=lambda at: abs(pictures.seconds[at] - second)) for second in wanted)
        return [(f"{pictures.seconds[at]:.1f}", pictures.at([pictures.indices[at]])) for at in nearest]


def _line(text: str) -> str:
    """On one line: what a model says cannot pass for further entries of the list that it is put into."""
    return " ".join(text.split())
