"""What a training guidance does to a base: said before anything is trained.

FLUX.1 [dev] is guidance-distilled: it embeds a guidance g and was taught to give at once what a teacher gives under classifier-free guidance g. A
LoRA has no teacher, only data. At g = 1 the teacher's guidance vanishes and data alone is the right target; at 3.5 the base is taught that g = 3.5
means no guidance at all (the finding behind Flux-dev2pro).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

HARMLESS_GUIDANCE = 1.5
_EMBEDDER = "guidance_in.out_layer."


def embeds_guidance(weights: Mapping[str, Tensor]) -> bool:
    """Whether the guidance that is given to a transformer changes anything: it has an embedder, and one that is not all zeros."""
    embedder = [weights[name] for name in weights if name.startswith(_EMBEDDER)]
    return any(bool(tensor.any()) for tensor in embedder)


def guidance_notes(weights: Mapping[str, Tensor], guidance: float) -> tuple[str, ...]:
    """What the user should know about training at this guidance on this base."""
    if not embeds_guidance(weights):
        return (
            "This base embeds no guidance (schnell, or a de-distilled base): the training guidance has no effect. If it is de-distilled, sample it "
            "with true CFG (cfg above 1 and a negative prompt).",
        )
    if guidance <= HARMLESS_GUIDANCE:
        return ()
    return (
        f"Warning: guidance {guidance:g} on a base that embeds guidance. A LoRA has no teacher to imitate, so this teaches the base that guidance "
        f"{guidance:g} means none: its guidance embedding loses its meaning, contrast and detail fade, and with more steps the base itself breaks. "
        "Train at 1.0 and apply the LoRA at the usual guidance.",
    )
