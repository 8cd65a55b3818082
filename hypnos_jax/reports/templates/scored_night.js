"use strict";
// Panels of one night on one time axis. All of them are drawn again for the part that is shown.
const data = JSON.parse(document.getElementById("data").textContent);
const LEFT = 130, RIGHT = 12, WIDTH = 1160, INNER = WIDTH - LEFT - RIGHT;
const HEIGHTS = { steps: 92, stack: 80, image: 92, lanes: 60, line: 70 };
// Okabe and Ito's colours, told apart with every kind of colour vision; W R N1 N2 N3.
const COLOURS = { W: "#e69f00", R: "#d55e00", N1: "#56b4e9", N2: "#0072b2", N3: "#1b1b1b" };
const LANES = { apnea: "#1b1b1b", hypopnea: "#0072b2", "apnea or hypopnea": "#0072b2", arousal: "#d55e00", desaturation: "#009e73", RERA: "#cc79a7" };
const STAGES = ["W", "N1", "N2", "N3", "R"], SHAPES = ["circle", "square", "up", "cross", "diamond"];
const whole = [0, Math.max(data.duration_s, 30)];
let view = whole.slice(), cursor = null, drag = null;
const host = document.getElementById("panels"), readout = document.getElementById("readout");

function add(parent, tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;  // never as markup
  parent.appendChild(node);
  return node;
}
const x = (s) => LEFT + INNER * (s - view[0]) / (view[1] - view[0]);
const clock = (s) => {
  const t = Math.round(s + (data.start_of_day_s || 0)) % 86400, two = (n) => String(n).padStart(2, "0");
  return two(Math.floor(t / 3600)) + ":" + two(Math.floor(t / 60) % 60) + (view[1] - view[0] < 900 ? ":" + two(t % 60) : "");
};
function shown(panel, rows) {  // places of the rows in view, thinned to about one a pixel
  const first = Math.max(0, Math.floor(view[0] / panel.step_s) - 1);
  const stop = Math.min(rows.length, Math.ceil(view[1] / panel.step_s) + 1);
  const step = Math.max(1, Math.floor((stop - first) / INNER)), out = [];
  for (let i = first; i < stop; i += step) out.push(i);
  return [out, step];
}
const draw = {
  steps(g, panel, height, side) {
    const gap = height / panel.labels.length, y = (row) => gap * (row + 0.5);
    panel.labels.forEach((label, row) => {
      add(g, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(row), y2: y(row), class: "grid" });
      add(side, "text", { x: LEFT - 6, y: y(row) + 4, "text-anchor": "end" }, label);
    });
    let path = "", open = false;
    const [places, step] = shown(panel, panel.rows);
    for (const i of places) {
      const row = panel.rows[i], a = x(i * panel.step_s), b = x((i + step) * panel.step_s);
      if (row === null) { open = false; continue; }
      path += (open ? "L" : "M") + a + " " + y(row) + "L" + b + " " + y(row);
      open = true;
      if (panel.labels[row] === "R" && panel.labels[0] === "W")
        add(g, "line", { x1: a, x2: b, y1: y(row), y2: y(row), stroke: COLOURS.R, "stroke-width": 5 });
    }
    add(g, "path", { d: path, class: "line" });
    for (const i of panel.marks) {
      const at = x((i + 0.5) * panel.step_s);
      if (at > LEFT && at < WIDTH - RIGHT) add(g, "path", { d: `M${at - 2} ${height}h4l-2 -5z`, fill: "#777" });
    }
  },
  stack(g, panel, height, side) {
    const [places] = shown(panel, panel.rows[0]), below = places.map(() => 0);
    panel.labels.forEach((label, k) => {
      let up = "", down = "";
      places.forEach((i, n) => {
        const at = x((i + 0.5) * panel.step_s), low = below[n], high = low + panel.rows[k][i];
        up += (n ? "L" : "M") + at + " " + height * low;
        down = "L" + at + " " + height * high + down;
        below[n] = high;
      });
      if (up) add(g, "path", { d: up + down + "Z", fill: COLOURS[label] });
      add(side, "rect", { x: LEFT - 44, y: 2 + 15 * k, width: 10, height: 10, fill: COLOURS[label] });
      add(side, "text", { x: LEFT - 30, y: 11 + 15 * k }, label);
    });
  },
  image(g, panel, height, side) {
    add(g, "image", { href: panel.image, x: x(0), y: 0, width: x(panel.stop_s) - x(0), height, preserveAspectRatio: "none" });
    panel.labels.forEach((label, k) => add(side, "text", { x: LEFT - 6, y: k ? height - 2 : 10, "text-anchor": "end" }, label));
  },
  lanes(g, panel, height, side) {
    const gap = height / Math.max(panel.labels.length, 1);
    if (!panel.labels.length) add(g, "text", { x: LEFT + 6, y: 20 }, "none");
    panel.labels.forEach((label, k) => {
      add(side, "text", { x: LEFT - 6, y: gap * (k + 0.5) + 4, "text-anchor": "end" }, label);
      for (const [onset, length] of panel.rows[k]) {
        const a = Math.max(x(onset), LEFT), b = Math.min(x(onset + length), WIDTH - RIGHT);
        if (b > LEFT && a < WIDTH - RIGHT) add(g, "rect", { x: a, y: gap * k + 3, width: Math.max(b - a, 1), height: gap - 6, fill: LANES[label] || "#777" });
      }
    });
  },
  line(g, panel, height, side) {
    const [low, high] = panel.limits, y = (v) => height - 2 - (height - 4) * (v - low) / (high - low);
    panel.labels.forEach((label, k) => add(side, "text", { x: LEFT - 6, y: k ? height - 2 : 10, "text-anchor": "end" }, label));
    let path = "", open = false;
    const [places, step] = shown(panel, panel.rows);
    for (const i of places) {
      const own = panel.rows.slice(i, i + step).filter((value) => value !== null);
      if (!own.length) { open = false; continue; }
      // Highest and lowest of a pixel: no short desaturation may fall between two pixels.
      for (const value of step > 1 ? [Math.max(...own), Math.min(...own)] : own) {
        path += (open ? "L" : "M") + x((i + step / 2) * panel.step_s) + " " + y(Math.max(low, Math.min(high, value)));
        open = true;
      }
    }
    add(g, "path", { d: path, class: "line" });
  },
};
function axis(svg, height) {
  const span = view[1] - view[0], steps = [10, 30, 60, 300, 600, 1800, 3600, 7200];
  const step = steps.find((s) => span / s <= 12) || 7200, begin = data.start_of_day_s || 0;
  for (let s = Math.ceil((view[0] + begin) / step) * step - begin; s <= view[1]; s += step)
    if (x(s) < WIDTH - 22) add(svg, "text", { x: x(s), y: height - 2, "text-anchor": "middle" }, clock(s));
}
function render() {
  host.replaceChildren();
  data.panels.forEach((panel, number) => {
    const last = number === data.panels.length - 1, height = HEIGHTS[panel.kind];
    const total = height + 24 + (last ? 16 : 0);
    const svg = add(host, "svg", { viewBox: `0 0 ${WIDTH} ${total}`, role: "img", "aria-label": panel.name + ". " + panel.note, "data-from": view[0], "data-to": view[1] });
    add(svg, "text", { x: 2, y: 13, class: "name" }, panel.name);
    const id = "clip" + number, clip = add(add(svg, "defs"), "clipPath", { id });
    add(clip, "rect", { x: LEFT, y: 0, width: INNER, height });
    const g = add(svg, "g", { transform: "translate(0 18)", "clip-path": `url(#${id})` });
    draw[panel.kind](g, panel, height, add(svg, "g", { transform: "translate(0 18)" }));  // names stand beside
    for (const [first, stop] of data.doubtful) {
      const a = Math.max(x(first * 30), LEFT), b = Math.min(x(stop * 30), WIDTH - RIGHT);
      if (b > a) add(g, "rect", { x: a, y: 0, width: b - a, height, class: "doubt" });
    }
    if (panel.kind === "line" || panel.kind === "steps") add(g, "rect", { x: LEFT, y: 0, width: INNER, height, fill: "none", stroke: "#ccc" });
    if (drag) add(g, "rect", { x: Math.min(x(drag[0]), x(drag[1])), y: 0, width: Math.abs(x(drag[0]) - x(drag[1])), height, class: "drag" });
    if (cursor !== null) add(g, "line", { x1: x(cursor), x2: x(cursor), y1: 0, y2: height, class: "cursor" });
    if (last) axis(svg, total);
  });
  readout.textContent = cursor === null ? "" : tell(cursor);
}
function tell(s) {
  const parts = [clock(s), "epoch " + Math.floor(s / 30)];
  for (const panel of data.panels) {
    if (panel.kind !== "steps" && panel.kind !== "line") continue;
    const value = panel.rows[Math.floor(s / panel.step_s)];
    if (value !== null && value !== undefined) parts.push(panel.name + " " + (panel.kind === "steps" ? panel.labels[value] : value));
  }
  return parts.join("  ·  ");
}
function show(from, to) {
  const span = Math.min(Math.max(to - from, 30), whole[1]);
  const first = Math.min(Math.max(from, 0), whole[1] - span);
  view = [first, first + span];
  render();
}
function seconds(event) {
  const box = host.getBoundingClientRect(), at = (event.clientX - box.left) * WIDTH / box.width;
  return Math.min(Math.max(view[0] + (at - LEFT) / INNER * (view[1] - view[0]), view[0]), view[1]);
}
host.addEventListener("pointerdown", (event) => { drag = [seconds(event), seconds(event)]; host.setPointerCapture(event.pointerId); });
host.addEventListener("pointermove", (event) => { cursor = seconds(event); if (drag) drag[1] = cursor; render(); });
host.addEventListener("pointerup", () => {
  const [a, b] = drag || [0, 0];
  drag = null;
  if (Math.abs(a - b) > (view[1] - view[0]) / 200) show(Math.min(a, b), Math.max(a, b)); else render();
});
host.addEventListener("dblclick", () => show(...whole));
host.addEventListener("keydown", (event) => {
  const span = view[1] - view[0], middle = (view[0] + view[1]) / 2;
  const moves = { ArrowLeft: [view[0] - span / 4, view[1] - span / 4], ArrowRight: [view[0] + span / 4, view[1] + span / 4], "+": [middle - span / 4, middle + span / 4], "-": [middle - span, middle + span], 0: whole };
  if (moves[event.key]) { show(...moves[event.key]); event.preventDefault(); }
});
if (data.map) {
  document.getElementById("map-section").hidden = false;
  const svg = add(document.getElementById("map"), "svg", { viewBox: "0 0 360 300", role: "img", "aria-label": "Map of the epochs by their embeddings" });
  const marks = { circle: "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", square: "M-3 -3h6v6h-6z", up: "M-3 3h6l-3 -6z", cross: "M-3 -1h2v-2h2v2h2v2h-2v2h-2v-2h-2z", diamond: "M0 -4l4 4l-4 4l-4 -4z" };
  for (const [a, b, stage] of data.map) if (stage >= 0) add(svg, "path", { d: marks[SHAPES[stage]], fill: COLOURS[STAGES[stage]], opacity: 0.7, transform: `translate(${150 + 140 * a} ${150 - 140 * b})` });
  STAGES.forEach((name, k) => { add(svg, "path", { d: marks[SHAPES[k]], fill: COLOURS[name], transform: `translate(312 ${20 + 18 * k})` }); add(svg, "text", { x: 322, y: 24 + 18 * k }, name); });
}
function fromAddress() {  // night.html#600-1200 shows these seconds
  const found = location.hash.match(/^#(\d+)-(\d+)$/);
  if (found && +found[2] > +found[1]) show(+found[1], +found[2]); else render();
}
window.addEventListener("hashchange", fromAddress);
fromAddress();
