"""The HTML report of a study: one self-contained page, with the figures in it as SVG."""

from __future__ import annotations

import io

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from acsearch.errors import StudyError
from acsearch.reporting.figures import figures
from acsearch.reporting.summary import caveats, headline, interval, law_summary, ranking
from acsearch.study.snapshot import Snapshot

GENERATOR = '<meta name="generator" content="acsearch">'
MARKS = (
    GENERATOR.encode(),
    b"body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem;",
)  # or older
_CAPTIONS = {
    "plane": "The candidates and the law",
    "predicted": "Predictions made before each finetune",
    "p_best": "Who is probably best",
}


def page(snapshot: Snapshot) -> str:
    """Render the report of a study as HTML.

    Raises:
        StudyError: not all candidates have been scored yet.
    """
    if not snapshot.is_scored:
        raise StudyError(f"study {snapshot.name!r}: its candidates are still being scored; there is nothing to report")
    environment = Environment(
        loader=PackageLoader("acsearch", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja").render(
        generator=GENERATOR,
        study=snapshot,
        headline=headline(snapshot),
        ranking=ranking(snapshot),
        interval=interval,
        figures=[(_CAPTIONS[name], _svg(figure)) for name, figure in figures(snapshot).items()],
        law=law_summary(snapshot, snapshot.steps[-1]),
        caveats=caveats(snapshot),
    )


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML declaration before it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
