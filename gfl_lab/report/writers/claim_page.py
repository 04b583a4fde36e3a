"""A claim as one HTML page that stands alone: no script, no external resource, light and dark, one sheet of A4 paper."""

from __future__ import annotations

from collections.abc import Sequence

from gfl_lab.report import claim_sentences as sentences
from gfl_lab.report.claim import Claim
from gfl_lab.report.claim_boxes import BoxPair
from gfl_lab.report.comparison import EQUIVALENT, INCONCLUSIVE, Comparison
from gfl_lab.report.differences import SETTINGS, Differing
from gfl_lab.report.formatting import MISSING, format_number, format_spread, metric_title, shortened
from gfl_lab.report.table_rows import TableRow
from gfl_lab.report.variant_comparison import CLASS, ERROR, SIZE, DifferenceRow
from gfl_lab.report.writers import svg
from gfl_lab.report.writers.claim_fit import FACT, MAX_CLASSES, MAX_SEEDS, NAME, NOTE, QUESTION, ROW_NAME, SETTING, VALUE, Fit, fit, warning
from gfl_lab.report.writers.claim_style import STYLE
from gfl_lab.report.writers.escape import escaped
from gfl_lab.report.writers.html_page import document

_SIGNS = {
    "better": '<path d="M12 4 21 19H3z"/>',
    "worse": '<path d="M12 20 3 5h18z"/>',
    EQUIVALENT: '<path d="M4 7h16v4H4zM4 14h16v4H4z"/>',
    INCONCLUSIVE: '<text x="12" y="21" text-anchor="middle" style="font-size:26px;font-weight:700">?</text>',
}
_NO_SIGN = '<path d="M4 10h16v4H4z"/>'


def to_claim_page(claim: Claim) -> str:
    """Return the page."""
    fits = fit(claim, _about_intervals(claim))
    heading = claim.table.question or f"{claim.variant.variant} against {claim.reference.variant}"
    body = "\n".join(
        [_header(claim, heading), _verdict(claim), _numbers(claim), _parts(claim), _boxes(claim, fits.boxes), _below(claim, fits)]
    )
    return document(f"{claim.variant.variant} · {claim.table.experiment} · {claim.table.profile}", STYLE, body)


def _name(row: TableRow, kind: str, most: int = NAME) -> str:
    """Return a variant's name with the mark that it has in all figures."""
    return f'<span class="name"><i class="key {kind}"></i>{escaped(shortened(row.variant, most))}</span>'


def _header(claim: Claim, heading: str) -> str:
    table = claim.table
    baseline = " (baseline)" if claim.reference.baseline else ""
    kicker = " · ".join(
        [f"Claim on {table.experiment}, {table.profile}", table.data, *([f"planned {claim.planned}"] if claim.planned else [])]
    )
    return f"""<header>
<p class="kicker">{escaped(kicker)}</p>
<h1>{escaped(shortened(heading, QUESTION))}</h1>
<p class="pair">{_name(claim.variant, svg.VARIANT)} <span class="soft">against</span> {_name(claim.reference, svg.REFERENCE)}<span class="soft">{baseline}</span></p>
</header>"""


# --- verdict --------------------------------------------------------------------------------------


def _verdict(claim: Claim) -> str:
    found = claim.main
    tone = found.verdict if found.verdict in _SIGNS else "none"
    caveats = "".join(f"<p>{escaped(each)}</p>" for each in sentences.caveats(found))
    sentence = sentences.verdict(found, shortened(claim.variant.variant, NAME), shortened(claim.reference.variant, NAME))
    alert = "The two differ in more than the declared axes: see the notes." if claim.unfair else "Read the warnings in the notes first."
    dots = "" if found.found.groups else "Dots: each seed. "
    alert = f'<p class="warning">{alert}</p>' if claim.warnings or claim.unfair else ""
    return f"""<section class="verdict {escaped(tone)}">
<h2><svg viewBox="0 0 24 24" aria-hidden="true">{_SIGNS.get(found.verdict, _NO_SIGN)}</svg>{escaped(sentences.title(found))}</h2>
<p class="sentence">{escaped(sentence)}</p>
<div>
{alert}<p>{escaped(sentences.basis(found, claim.val_images))}</p>
<div class="caveats">{caveats}</div>
</div>
<figure>{_intervals(claim)}
<figcaption>AP points, 95% intervals. {dots}Band: ±{found.min_effect:g}, too small to matter.</figcaption></figure>
</section>"""


def _intervals(claim: Claim) -> str:
    rows = []
    for metric, found in claim.comparisons.items():
        first, second = claim.by_seed[metric]
        each = () if found.found.groups else tuple(first[seed] - second[seed] for seed in first if seed in second)
        rows.append(svg.ForestRow(metric_title(metric), found.found.mean, found.found.ends, found.better, _interval(found), each))
    return svg.forest(
        rows, "differences in AP, AP50 and AP75 with 95% intervals", width=340, names=40, values=104, row=26, band=claim.main.min_effect
    )


def _interval(found: Comparison) -> str:
    """Return ``+2.3 (+1.2 to +3.4)``; the difference alone where there is no interval."""
    if found.found.ends is None:
        return sentences.difference(found)
    low, high = (format_number("AP", end, True) for end in found.found.ends)
    return f"{sentences.difference(found)} ({low} to {high})"


# --- the rows of the table ------------------------------------------------------------------------


def _numbers(claim: Claim) -> str:
    metrics = claim.metrics
    each = {row.variant: list(values.values()) for row, values in zip((claim.variant, claim.reference), claim.by_seed["AP"], strict=True)}
    every = [value for values in each.values() for value in values]
    low, high = min(every), max(every)
    head = "".join(f'<th scope="col">{escaped(metric_title(key))}</th>' for key in metrics)
    span = f"AP by seed, {format_number('AP', low)} to {format_number('AP', high)}"
    lines = []
    for row, kind in ((claim.variant, svg.VARIANT), (claim.reference, svg.REFERENCE)):
        cells = "".join(f"<td>{_spread(row, key)}</td>" for key in metrics)
        label = f"AP of each seed of {row.variant}: " + ", ".join(format_number("AP", value) for value in each[row.variant])
        dots = svg.seeds(each[row.variant], low, high, kind, label)
        lines.append(f'<tr><th scope="row">{_name(row, kind, ROW_NAME)}</th>{cells}<td class="dots">{dots}</td></tr>')
    cells = "".join(_delta_cell(claim, key) for key in metrics)
    lines.append(f'<tr class="delta"><th scope="row">difference <span class="soft">{_seed_text(claim)}</span></th>{cells}<td></td></tr>')
    return f"""<section>
<h2>The rows of the table</h2>
<div class="scroll"><table class="numbers">
<thead><tr><th></th>{head}<th scope="col" class="dots">{escaped(span)}</th></tr></thead>
<tbody>
{"".join(lines)}
</tbody></table></div>
</section>"""


def _spread(row: TableRow, key: str) -> str:
    found = row.metrics.get(key)
    if found is None:
        return MISSING
    spread = "" if found.std is None else f' <span class="soft">± {escaped(format_number(key, found.std))}</span>'
    return escaped(format_number(key, found.mean)) + spread


def _delta_cell(claim: Claim, key: str) -> str:
    found, compared = claim.delta.get(key), claim.comparisons.get(key)
    tone = {True: "up", False: "down"}.get(compared.better, "") if compared and compared.better is not None else ""
    return f'<td class="{tone}">{MISSING if found is None else escaped(format_spread(key, found.mean, found.std, signed=True))}</td>'


def _seed_text(claim: Claim) -> str:
    """Return the seeds over which differences are paired; for arms without pairs that it is one of means."""
    if claim.main.found.groups:
        return "of the means"
    seeds = list(claim.trials)
    if len(seeds) > MAX_SEEDS:
        return f"{len(seeds)} seeds"
    return escaped(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}")


# --- parts of the difference ----------------------------------------------------------------------


def _parts(claim: Claim) -> str:
    title = "<h2>Where the difference comes from</h2>"
    if claim.parts.missing:
        return f"<section>{title}<p>{escaped(shortened(claim.parts.missing, NOTE))}</p></section>"
    panels = []
    for group, heading in ((SIZE, "By size, AP"), (CLASS, "By class, AP"), (ERROR, "By type of error, AP50 it costs")):
        rows = [row for row in claim.parts.rows if row.group == group]
        if group == CLASS:
            rows = sorted(rows, key=lambda row: -abs(row.found.mean))
        note = f"{len(rows) - MAX_CLASSES} more classes changed less." if len(rows) > MAX_CLASSES else ""
        note = "Lower is better: left of 0 the variant loses less." if group == ERROR else note
        if rows:
            panels.append(_panel(rows[:MAX_CLASSES], heading, note))
    return f"""<section>
{title}
<div class="three">{"".join(panels)}</div>
</section>"""


def _panel(rows: Sequence[DifferenceRow], heading: str, note: str) -> str:
    shown = [
        svg.ForestRow(_part_name(row), row.found.mean, row.ends, row.better, format_number("AP", row.found.mean, True)) for row in rows
    ]
    drawn = svg.forest(shown, f"{heading}: differences with intervals", width=236, names=88, values=32, row=15)
    return f"<figure><h3>{escaped(heading)}</h3>{drawn}<figcaption>{escaped(note)}</figcaption></figure>"


def _part_name(row: DifferenceRow) -> str:
    return {"AP_S": "small", "AP_M": "medium", "AP_L": "large"}.get(row.name, row.name) if row.group == SIZE else row.name


# --- boxes ----------------------------------------------------------------------------------------


def _boxes(claim: Claim, most: int) -> str:
    boxes, title = claim.boxes, "<h2>The same ground-truth boxes in both variants</h2>"
    if not boxes.pairs:
        return f"<section>{title}<p>No figure: {escaped(shortened(boxes.missing, 2 * NOTE))}</p></section>"
    pairs = boxes.pairs[:most]
    if not pairs:
        return f"<section>{title}<p>No figure: the sheet has no room for it. The dashboard's page Boxes has it.</p></section>"
    knows = any(side.true_edges for pair in pairs for side in pair.variant.sides)
    legend = [
        f'<span><i class="key {svg.VARIANT}"></i>{escaped(shortened(claim.variant.variant, 30))}</span>',
        f'<span><i class="key {svg.REFERENCE}"></i>{escaped(shortened(claim.reference.variant, 30))}</span>',
        '<span><i class="bar"></i>annotated edge</span>',
        *(['<span><i class="pin"></i>true edge, as high as it is probable</span>'] if knows else []),
        '<span><i class="tri"></i>decoded edge</span>',
    ]
    where = " and ".join(f"box {pair.chosen.annotation_id} of image {pair.chosen.image_id}" for pair in pairs)
    rule = " ".join(
        [f"Seed {boxes.seed}, {where}. {boxes.rule}", *(f"{note} Its one distance is drawn as a line." for note in boxes.notes)]
    )
    return f"""<section class="boxes">
{title}
<p class="legend">{"".join(legend)}</p>
{"".join(_box(pair) for pair in pairs)}
<p class="soft small">Probability of each side's place on the image, px. {escaped(shortened(rule, 2 * NOTE))}</p>
</section>"""


def _box(pair: BoxPair) -> str:
    top, chosen = svg.side_top(pair), pair.chosen
    charts = "".join(f"<div>{svg.side_chart(one, other, top, one.side == chosen.side)}</div>" for one, other in pair.sides)
    picture = svg.box_picture(pair, f"image {chosen.image_id}: annotated and predicted boxes")
    return f'<div class="box"><figure>{picture}<figcaption>{escaped(shortened(pair.variant.category, 14))}</figcaption></figure><div class="sides">{charts}</div></div>'


# --- settings, commands, notes --------------------------------------------------------------------


def _below(claim: Claim, fits: Fit) -> str:
    """Return two columns: settings and notes at the left, commands and ids at the right."""
    commands = "".join(f"<li><code>{escaped(each)}</code></li>" for each in claim.commands)
    facts = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(shortened(text, FACT))}</dd>" for name, text in claim.facts.items())
    return f"""<div class="two">
<div>
<section><h2>Settings that differ</h2>{_settings(claim, fits.settings)}</section>
{_notes(claim, fits.notes)}
</div>
<section><h2>To repeat it</h2>
<ol class="commands">{commands}</ol>
<dl>{facts}<dt class="wide">trials by seed, variant / other</dt><dd class="wide trials">{_trials(claim)}</dd></dl></section>
</div>"""


def _settings(claim: Claim, most: int) -> str:
    found = sorted(claim.settings, key=lambda each: each.group != SETTINGS)
    if not found:
        return "<p>None on record. Settings of detectors that were trained elsewhere are not known.</p>"
    lines = "".join(_setting(each) for each in found[:most])
    one, other = next(iter(claim.trials.values()))
    left = len(found) - most
    more = f'<p class="soft small">and {left} more: <code>gfl-lab diff {escaped(one)} {escaped(other)}</code></p>' if left > 0 else ""
    head = f'<tr><th></th><th scope="col"><i class="key {svg.VARIANT}"></i>variant</th><th scope="col"><i class="key {svg.REFERENCE}"></i>other</th></tr>'
    return f'<table class="settings"><thead>{head}</thead><tbody>{lines}</tbody></table>{more}'


def _setting(each: Differing) -> str:
    group = "" if each.group == SETTINGS else f' <span class="soft">({escaped(each.group)})</span>'
    values = "".join(f"<td>{escaped(shortened(value, VALUE))}</td>" for value in (each.first, each.second))
    return f'<tr><th scope="row">{escaped(shortened(each.name, SETTING))}{group}</th>{values}</tr>'


def _trials(claim: Claim) -> str:
    shown = list(claim.trials.items())[:MAX_SEEDS]
    texts = [f"{seed}: {one} / {other}" for seed, (one, other) in shown]
    if left := len(claim.trials) - len(shown):
        texts.append(f"and {left} more: gfl-lab table --json")
    return " ".join(f"<span>{escaped(each)}</span>" for each in texts)


def _notes(claim: Claim, shown: Sequence[str]) -> str:
    left = len(claim.notes) - len(shown)
    more = [f"and {left} more on these two rows: gfl-lab table"] if left else []
    items = "".join(f"<li>{escaped(each)}</li>" for each in [*map(warning, claim.warnings), *shown, *more, *_about_intervals(claim)])
    return f"<footer><h2>Notes</h2><ul>{items}</ul></footer>"


def _about_intervals(claim: Claim) -> list[str]:
    """Return how the intervals are made, with a pointer to the page that derives it."""
    found = claim.main.found
    if found.half is None:
        return ["docs/statistics.md of gfl-lab says how intervals and verdicts are made, and when there are none."]
    over = "over other seeds and other validation images" if found.image_variance is not None else "over other seeds alone"
    pooled = f" How much seeds differ is pooled over {found.rows} rows of the table." if found.rows > 1 else ""
    if found.guarded:
        pooled = " Seeds differ far more here than in the table's other rows, so the interval rests on this row alone."
    return [
        f"95% intervals are of the mean paired difference {over}; docs/statistics.md derives them.{pooled}",
        "Intervals of sizes, classes and types of error are not corrected for how many there are.",
    ]
