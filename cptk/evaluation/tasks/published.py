"""Figures that others published for the tasks, printed beside ours."""

from __future__ import annotations

from cptk.evaluation.tasks.registry import Published

SST2_PUBLISHED = (
    Published(
        "supervised network (Socher et al. 2013)",
        0.854,
        "Socher et al. 2013, as cited in Neelakantan et al. 2022, Table 3",
    ),
)
"""What the paper holds its own figures on SST-2 against."""

# Neelakantan et al. 2022, Table 7: 1,000 candidates.
_COLUMNS = ("python", "java", "go", "php", "ruby", "javascript", "average")
_CPT_CODE = {
    "cpt-code S": (0.998, 0.940, 0.977, 0.967, 0.863, 0.860, 0.934),
    "cpt-code M": (0.999, 0.944, 0.975, 0.972, 0.855, 0.865, 0.935),
}
# Husain et al. 2019, Table 3: trained on the task. The average there pools the languages and is not
# comparable with ours, which is the mean of the languages' figures.
_SELF_ATTENTION = (0.6922, 0.5866, 0.6809, 0.6011, 0.3651, 0.4506)


def codesearchnet_published(language: str = "average") -> tuple[Published, ...]:
    """Figures for CodeSearchNet in one language, or the average over the languages."""
    column = _COLUMNS.index(language)
    source = "Neelakantan et al. 2022, Table 7"
    paper = [Published(model, row[column], source) for model, row in _CPT_CODE.items()]
    trained = [
        Published("self-attention (CodeSearchNet)", score, "Husain et al. 2019, Table 3")
        for score in _SELF_ATTENTION[column : column + 1]
    ]
    return (*paper, *trained)
