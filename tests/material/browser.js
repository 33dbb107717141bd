// Read by tests/material/browser.py and run inside the page under test.

// How an element reads in a message.
function named(element) {
  return element.outerHTML.slice(0, 160).replace(/\s+/g, " ");
}

// Pictures without an alt attribute. alt="" is allowed: it says that the picture repeats the text beside it.
function withoutAlt() {
  return [...document.images].filter((image) => !image.hasAttribute("alt")).map(named);
}

// [r, g, b, a] of a computed colour, 0 to 255 and 0 to 1. A canvas knows every notation that the browser knows.
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const colours = new Map();
function rgba(colour) {
  if (!colours.has(colour)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    colours.set(colour, [r, g, b, a / 255]);
  }
  return colours.get(colour);
}

function over(front, back, opacity) {
  const alpha = front[3] * opacity;
  return [0, 1, 2].map((i) => front[i] * alpha + back[i] * (1 - alpha)).concat(1);
}

// WCAG 2.2: relative luminance, and the ratio of two of them.
function luminance(colour) {
  const [r, g, b] = colour.slice(0, 3).map((value) => {
    const s = value / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

// The colour behind an element's text; null where a picture is behind it, of which nothing can be said.
function behind(element) {
  const layers = [];
  for (let node = element; node instanceof Element; node = node.parentElement) {
    const style = getComputedStyle(node);
    if (style.backgroundImage !== "none") return null;
    layers.push([rgba(style.backgroundColor), Number(style.opacity)]);
  }
  // Without any colour the browser's own canvas shows, dark where the page's colour scheme is.
  const isDark = getComputedStyle(document.documentElement).colorScheme.includes("dark") &&
    matchMedia("(prefers-color-scheme: dark)").matches;
  const canvasColour = isDark ? [18, 18, 18, 1] : [255, 255, 255, 1];
  return layers.reverse().reduce((back, [colour, opacity]) => over(colour, back, opacity), canvasColour);
}

function opacityOf(element) {
  let opacity = 1;
  for (let node = element; node instanceof Element; node = node.parentElement) {
    opacity *= Number(getComputedStyle(node).opacity);
  }
  return opacity;
}

function texts() {
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (walker.currentNode.data.trim()) found.add(walker.currentNode.parentElement);
  }
  document.querySelectorAll("input, select, textarea").forEach((control) => found.add(control));
  const seen = (element) => element.checkVisibility({ checkOpacity: false, checkVisibilityCSS: true }) &&
    element.getClientRects().length > 0 && !element.closest("script, style, title, desc, option");
  // WCAG exempts controls that cannot be used.
  return [...found].filter((element) => seen(element) && !element.closest(":disabled"));
}

function faintTexts(minimum) {
  const faults = [];
  for (const element of texts()) {
    const style = getComputedStyle(element);
    const colour = rgba(element instanceof SVGElement ? style.fill : style.color);
    const back = behind(element);
    if (back === null) {
      faults.push(`text on a picture: ${named(element)}`);
      continue;
    }
    const ratio = contrast(over(colour, back, opacityOf(element)), back);
    if (ratio < minimum) faults.push(`${ratio.toFixed(2)}: ${named(element)}`);
  }
  return faults;
}

function beyondTheEdge() {
  const root = document.documentElement;
  // The layout's width, not innerWidth: a phone's browser zooms out to fit what is too wide.
  if (root.scrollWidth <= root.clientWidth) return [];
  return [...document.body.querySelectorAll("*")]
    .filter((element) => element.getBoundingClientRect().right > root.clientWidth + 1)
    .map(named).slice(0, 5).concat(`${root.scrollWidth} px of ${root.clientWidth}`);
}

function looks(element) {
  const style = getComputedStyle(element);
  const outline = style.outlineStyle === "none" || parseFloat(style.outlineWidth) === 0 ? "" :
    `${style.outlineStyle} ${style.outlineWidth} ${style.outlineColor}`;
  return [outline, style.boxShadow, style.borderColor, style.backgroundColor, style.textDecorationLine].join("|");
}

function focusUnseen() {
  const before = document.activeElement;
  const stops = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
    .filter((element) => !element.disabled && element.checkVisibility({ checkVisibilityCSS: true }));
  const faults = [];
  for (const element of stops) {
    element.blur();
    const plain = looks(element);
    element.focus({ focusVisible: true, preventScroll: true });
    if (document.activeElement === element && looks(element) === plain) faults.push(named(element));
  }
  document.activeElement.blur();
  if (before !== document.body) before.focus({ preventScroll: true });
  return faults;
}
