"""Debian's Chromium, and what a person or an auditor of accessibility would measure in a page."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

WIDTHS = (375, 768, 1440)
REQUIRED = "SILO_REQUIRE_BROWSER"


def required(what: str, fix: str) -> NoReturn:
    """Skip because something is not installed; fail where CI promised that it is."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what} is missing, and ${REQUIRED} says it must be there: {fix}")
    pytest.skip(f"{what} is not installed ({fix}; CI does)")


def chromium() -> str:
    """The path of Chromium; nothing is ever downloaded."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or required("Chromium", "apt-get install chromium")


@dataclass
class Seen:
    """What a page did besides being shown."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def watch(page: Any) -> Seen:
    """Record every request, console message, error and failed request of a page from here on."""
    seen = Seen()
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(f"error: {error}"))
    page.on("requestfailed", lambda request: seen.complaints.append(f"failed: {request.url}"))
    return seen


# What sticks out of the window, unless it lies in a region that scrolls by itself and can be reached by keyboard.
STICKS_OUT = """() => {
  const wide = document.documentElement.clientWidth, out = [];
  if (document.documentElement.scrollWidth > wide) out.push(`the page is ${document.documentElement.scrollWidth} wide`);
  for (const each of document.body.querySelectorAll("*")) {
    const box = each.getBoundingClientRect();
    if (!box.width || !box.height || (box.right <= wide + 0.5 && box.left >= -0.5)) continue;
    if (each.closest(".skip, thead") || each.parentElement.closest("[tabindex='0'], svg")) continue;
    out.push(`${each.tagName}.${each.className} "${each.textContent.trim().slice(0, 40)}" ${box.left} to ${box.right}`);
  }
  return out;
}"""

# WCAG 2.2, 1.4.3: every visible text against what is painted behind it.
LOW_CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let measured = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode, element = text.parentElement, range = document.createRange();
    if (!text.data.trim() || element.closest("script, style, noscript, title, defs")) continue;
    range.selectNodeContents(text);
    if (!range.getClientRects().length) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const behind = ground(element), svg = element instanceof SVGElement;
    const ink = over(rgba(svg ? style.fill : style.color), behind);
    const [bright, dark] = [light(ink), light(behind)].sort((a, b) => b - a);
    const ratio = (bright + 0.05) / (dark + 0.05), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    measured += 1;
    if (ratio < (large ? 3 : 4.5)) low.push(`${ratio.toFixed(2)} "${text.data.trim().slice(0, 40)}" ${style.color}`);
  }
  return { measured, low };
}"""

# Headings without a gap, tables with headers and captions, pictures with words, ids that are there once.
STRUCTURE = """() => {
  const wrong = [], levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((h) => Number(h.tagName[1]));
  if (levels[0] !== 1 || levels.filter((l) => l === 1).length !== 1) wrong.push(`headings begin ${levels}`);
  levels.forEach((l, i) => { if (i && l > levels[i - 1] + 1) wrong.push(`h${l} after h${levels[i - 1]}`); });
  for (const table of document.querySelectorAll("table")) {
    const name = table.caption ? table.caption.textContent.trim() : "";
    if (!name) wrong.push("a table without a caption");
    if (![...table.querySelectorAll("thead th")].every((th) => th.scope === "col" && th.textContent.trim()))
      wrong.push(`${name}: a column without a header`);
    for (const row of table.querySelectorAll("tbody tr")) {
      if (row.cells[0].tagName !== "TH" || row.cells[0].scope !== "row") wrong.push(`${name}: a row without a header`);
      if (row.cells.length !== table.querySelectorAll("thead th").length) wrong.push(`${name}: a ragged row`);
    }
  }
  for (const picture of document.querySelectorAll("svg, img, canvas")) {
    const named = (picture.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean)
      .map((id) => document.getElementById(id)).filter((each) => each && each.textContent.trim());
    const words = picture.getAttribute("alt") || picture.getAttribute("aria-label") || named.length;
    if (picture.getAttribute("role") !== "img" || !words) wrong.push("a picture without words");
  }
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  for (const id of ids) if (ids.filter((other) => other === id).length > 1) wrong.push(`two elements are #${id}`);
  for (const to of [...document.querySelectorAll("a[href^='#']")].map((link) => link.getAttribute("href")))
    if (!document.getElementById(to.slice(1))) wrong.push(`${to} leads nowhere`);
  if (!document.documentElement.lang) wrong.push("no language");
  return wrong;
}"""
