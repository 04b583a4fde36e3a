"""Clicks on parts of the pages' own HTML: an element with ``put_attribute`` makes the choice that it names, as a widget would."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import streamlit as st

from dashboard import state, theme

_KEY = "clicks"
_TRIGGER = "put"
# The listener is on the document, since the pages' HTML is drawn by other elements. The address's fragment is scrolled to here too: the
# browser looks for it before the page has been drawn.
_JS = """
function download (blob, name) {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

function wrapped (words, most) {
  const lines = ['']
  for (const word of words.split(' ')) {
    if ((lines.at(-1) + ' ' + word).length > most) lines.push('')
    lines[lines.length - 1] = (lines.at(-1) + ' ' + word).trim()
  }
  return lines
}

function save ({ save: form, figure, caption, name }) {
  const plot = document.querySelector('.st-key-' + CSS.escape(figure) + ' .js-plotly-plot')
  if (!plot) return
  const { width: drawn, height } = plot.getBoundingClientRect()
  // The file does not have the page's font: labels at the left edge may need more room in another font.
  const pad = Math.max(12, ...[...plot.querySelectorAll('.ytick text')].map(label => Math.ceil(0.4 * label.getBBox().width)))
  const width = drawn + pad
  const lines = wrapped(caption, Math.floor(width / 7)), space = 'http://www.w3.org/2000/svg'
  const whole = Math.ceil(height + 18 * lines.length + 16)
  const svg = document.createElementNS(space, 'svg')
  const add = (kind, attributes, words) => {
    const each = svg.appendChild(document.createElementNS(space, kind))
    for (const key in attributes) each.setAttribute(key, attributes[key])
    each.textContent = words || ''
  }
  for (const [key, value] of Object.entries({ xmlns: space, width, height: whole, viewBox: `${-pad} 0 ${width} ${whole}` })) svg.setAttribute(key, value)
  const style = getComputedStyle(document.querySelector('[data-testid=stApp]'))
  add('rect', { x: -pad, width: '100%', height: '100%', fill: style.backgroundColor })
  for (const part of plot.querySelectorAll('.main-svg')) {
    const copy = svg.appendChild(part.cloneNode(true))
    copy.setAttribute('overflow', 'visible')
    copy.style.overflow = 'visible'
  }
  lines.forEach((line, i) => add('text', { x: 10 - pad, y: height + 18 * (i + 1), 'font-size': 13, 'font-family': 'sans-serif', fill: style.color }, line))
  const text = new Blob([new XMLSerializer().serializeToString(svg)], { type: 'image/svg+xml' })
  if (form === 'svg') return download(text, name + '.svg')
  const picture = new Image(), address = URL.createObjectURL(text)
  picture.onload = () => {
    const canvas = document.createElement('canvas')
    canvas.width = 2 * width; canvas.height = 2 * whole
    canvas.getContext('2d').drawImage(picture, 0, 0, canvas.width, canvas.height)
    URL.revokeObjectURL(address)
    canvas.toBlob(blob => download(blob, name + '.png'))
  }
  picture.src = address
}

export default function ({ setTriggerValue }) {
  const put = event => {
    if (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ') return
    const saves = event.target.closest && event.target.closest('[data-save]')
    if (saves) return save(saves.dataset)
    const target = event.target.closest && event.target.closest('[data-put]')
    if (!target || event.target.closest('a')) return
    event.preventDefault()
    setTriggerValue('put', target.dataset.put)
    if (target.dataset.scroll) setTimeout(() => document.getElementById(target.dataset.scroll)?.scrollIntoView({ behavior: 'smooth' }), 600)
  }
  for (const type of ['click', 'keydown']) document.addEventListener(type, put)
  const anchor = decodeURIComponent(location.hash.slice(1))
  let tries = anchor && window.gflAnchor !== location.href ? 40 : 0
  const look = setInterval(() => {
    const found = tries-- > 0 && document.getElementById(anchor)
    if (found) { found.scrollIntoView({ block: 'center' }); found.classList.add('asked'); window.gflAnchor = location.href }
    if (found || tries <= 0) clearInterval(look)
  }, 100)
  return () => {
    for (const type of ['click', 'keydown']) document.removeEventListener(type, put)
    clearInterval(look)
  }
}
"""
_listener = st.components.v2.component("gfl_lab_clicks", js=_JS)


def listen() -> None:
    """Follow clicks on the page; once a page."""
    with st.container(key="listener"):  # style.css takes it out of the page's flow
        _listener(key=_KEY, on_put_change=_chosen, height=0)


def _chosen() -> None:
    value = st.session_state[_KEY].get(_TRIGGER)
    if value:
        state.put(**dict(parse_qsl(str(value), keep_blank_values=True)))


def save_html(figure: str, name: str, caption: str) -> str:
    """Return the HTML that saves a figure of the page as PNG or SVG, with a caption below it.

    Args:
        figure: the key of its chart. name: of the file, without its ending.
    """
    common = (
        f'data-figure="{theme.text(figure)}" data-name="{theme.text(name)}" data-caption="{theme.text(caption)}" role="button" tabindex="0"'
    )
    forms = " · ".join(f'<span class="opens" data-save="{form}" {common}>{form.upper()}</span>' for form in ("png", "svg"))
    return f'<div class="dim small">Save the figure with its caption: {forms}</div>'


def put_attribute(**choices: str) -> str:
    """Return the attributes of an HTML element that makes ``choices`` on a click, or on the Enter key."""
    return f'data-put="{theme.text(urlencode(choices))}" role="button" tabindex="0"'
