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
export default function ({ setTriggerValue }) {
  const put = event => {
    if (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ') return
    const target = event.target.closest && event.target.closest('[data-put]')
    if (!target || event.target.closest('a')) return
    event.preventDefault()
    setTriggerValue('put', target.dataset.put)
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


def put_attribute(**choices: str) -> str:
    """Return the attributes of an HTML element that makes ``choices`` on a click, or on the Enter key."""
    return f'data-put="{theme.text(urlencode(choices))}" role="button" tabindex="0"'
