"use strict";
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const DETECTORS = ["H", "V", "D", "A"];
let last = null, lastAt = 0, drawn = "", shownBlock = null, largeByHand = null;

function text(id, value) { const place = byId(id); if (place.textContent !== value) place.textContent = value; }
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function draw(tag, attributes = {}, content) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (content !== undefined) node.textContent = content;
  return node;
}
const known = (value) => value !== null && value !== undefined;
const percent = (value) => known(value) ? (100 * value).toFixed(2) + "\u00a0%" : "–";
function scaled(value, unit) {
  if (!known(value)) return "–";
  for (const [size, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(3)) + "\u00a0" + prefix + unit;
  return Number(value.toPrecision(3)) + " " + unit;
}
function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 1) return Number((seconds * 1000).toPrecision(3)) + " ms";
  let rest = Math.floor(seconds);
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]])
    if (rest >= size || (unit === "s" && !parts.length)) { parts.push(Math.floor(rest / size) + " " + unit); rest %= size; }
  return parts.slice(0, 2).join(" ");
}
function signedTime(seconds) {
  if (!known(seconds)) return "–";
  for (const [size, unit] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]])
    if (Math.abs(seconds) >= size) return (seconds / size).toPrecision(5) + " " + unit;
  return (seconds * 1e9).toPrecision(4) + " ns";
}
const clock = (wall) => new Date(wall * 1000).toLocaleTimeString([], { hour12: false });
const STATE = { running: "good", up: "good", connecting: "warn", starting: "warn", aligning: "warn", draining: "warn", drained: "warn",
  "aligning (open)": "warn", degraded: "bad", tripped: "bad", waiting: "bad", lost: "bad", stalled: "bad" };

function table(id, head, rows) {
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, i) => {
    const [value, kind] = Array.isArray(cell) ? cell : [cell, ""];
    return make(i ? "td" : "th", { ...(i ? {} : { scope: "row" }), ...(kind ? { class: kind } : {}) }, value);
  })));
  const caption = byId(id).querySelector("caption");
  byId(id).replaceChildren(...(caption ? [caption] : []),
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...body));
}

/* --- the picture -------------------------------------------------------------------------------------------------------- */

const WIDE = { view: [960, 400], source: [480, 70], alice: [130, 70], bob: [830, 70], box: [190, 104],
  steps: [[110, 250], [300, 250], [490, 250]], step: [140, 50], tanks: [[640, 205], [800, 205]], tank: [130, 110], note: 345 };
const TALL = { view: [380, 620], source: [190, 50], alice: [95, 190], bob: [285, 190], box: [176, 104],
  steps: [[65, 320], [190, 320], [315, 320]], step: [112, 50], tanks: [[20, 400], [200, 400]], tank: [160, 110], note: 545 };

function station(group, place, size, name, mine, detectors, dial, note) {
  const [x, y] = [place[0] - size[0] / 2, place[1] - size[1] / 2];
  group.append(draw("rect", { class: mine ? "box me" : "box", x, y, width: size[0], height: size[1], rx: 10 }));
  group.append(draw("text", { class: "name", x: x + 12, y: y + 24 }, name));
  if (detectors) detectors.forEach((level, i) => {
    const cx = x + 26 + i * 36;
    group.append(draw("circle", { class: "det", cx, cy: y + 52, r: 13 }));
    if (known(level)) group.append(draw("circle", { class: "lit", cx, cy: y + 52, r: 13, opacity: (0.08 + 0.4 * level).toFixed(2) }));
    group.append(draw("text", { x: cx, y: y + 57, "text-anchor": "middle" }, DETECTORS[i]));
  });
  else group.append(draw("text", { class: "note", x: x + 12, y: y + 57 }, "laser, modulators"));
  const [cx, cy] = [x + size[0] - 20, y + 19];
  group.append(draw("circle", { class: "det", cx, cy, r: 12 }));
  if (known(dial)) {
    const turn = dial * 2 * Math.PI;
    group.append(draw("line", { class: "hand", x1: cx, y1: cy, x2: cx + 9 * Math.sin(turn), y2: cy - 9 * Math.cos(turn) }));
  }
  group.append(draw("text", { class: "note", x: x + 12, y: y + 92 }, note));
}

function picture(state) {
  const place = matchMedia("(max-width: 40rem)").matches ? TALL : WIDE;
  const svg = byId("picture"), link = state.status.link, keys = state.status.keys, pulsed = link.pulses !== null;
  const top = place === TALL && pulsed ? 120 : 0;
  svg.setAttribute("viewBox", [0, top, place.view[0], place.view[1] - top].join(" "));
  const group = draw("g"), up = link.state === "running" || link.state.startsWith("aligning") || link.state === "draining";
  const path = (from, to) => place === WIDE || pulsed ? "M" + from + "L" + to : "M" + from + "C" + [from[0], to[1] - 70] + " " + [to[0], from[1] + 10] + " " + to;
  const ends = pulsed ? [[place.alice, place.bob, ""]] : [[place.source, place.alice, "back"], [place.source, place.bob, ""]];
  for (const [from, to] of ends) {
    const d = path(from, to);
    group.append(draw("path", { class: up ? "fibre" : "fibre down", d }));
    if (up && known(link.clicks_per_s)) group.append(draw("path", { class: "light", d }));
  }
  if (!pulsed) {
    group.append(draw("circle", { class: "box", cx: place.source[0], cy: place.source[1], r: 34 }));
    group.append(draw("text", { x: place.source[0], y: place.source[1] + 5, "text-anchor": "middle" }, "source"));
    if (place === WIDE) group.append(draw("text", { class: "note", x: place.source[0], y: place.source[1] + 56, "text-anchor": "middle" }, scaled(link.coincidences_per_s, "pairs/s")));
  }
  const rates = detectorRates(state), most = Math.max(1, ...rates.filter(known));
  const levels = rates.map((rate) => known(rate) ? rate / most : null);
  const other = link.role === "alice" ? "bob" : "alice";
  const mine = { detectors: pulsed && link.role === "alice" ? null : levels, dial: 0, note: scaled(link.clicks_per_s, "clicks/s") };
  const theirs = { detectors: pulsed && other === "alice" ? null : [null, null, null, null], dial: known(link.offset_s) ? link.offset_s % 1 : null,
    note: link.peer ? (state.peerUp ? "connected" : "not connected") : "" };
  for (const role of ["alice", "bob"]) {
    const it = role === link.role ? mine : theirs, name = role === link.role ? state.status.node : link.peer || role;
    station(group, place[role], place.box, name.length > 14 ? name.slice(0, 13) + "…" : name, role === link.role, it.detectors, it.dial, it.note);
  }
  const steps = ["sift", "correct", "amplify"];
  const start = place[link.role], first = place.steps[0];
  group.append(draw("path", { class: "wire", d: "M" + [start[0], start[1] + place.box[1] / 2] + "V" + (first[1] - 48) + "H" + first[0] + "V" + (first[1] - place.step[1] / 2) }));
  place.steps.forEach(([x, y], i) => {
    if (i) group.append(draw("line", { class: "wire", x1: place.steps[i - 1][0] + place.step[0] / 2, y1: y, x2: x - place.step[0] / 2, y2: y }));
    group.append(draw("rect", { class: "box", x: x - place.step[0] / 2, y: y - place.step[1] / 2, width: place.step[0], height: place.step[1], rx: 6 }));
    group.append(draw("text", { x, y: y + 5, "text-anchor": "middle" }, steps[i]));
  });
  const tail = place.steps[2];
  const waiting = keys.spool.filter((row) => row.state !== "acknowledged" && row.state !== "released").reduce((sum, row) => sum + row.bits, 0);
  const stored = [["this node", waiting, scaled(waiting, "bit"), "not handed over"],
    ["KMS " + (keys.kms_up ? "" : "down"), keys.handed_over, keys.handed_over + " blocks", "handed over"]];
  place.tanks.forEach(([x, y], i) => {
    const [name, amount, shown, note] = stored[i], level = Math.min(1, Math.log10(1 + amount) / (i ? 4 : 8)), height = level * (place.tank[1] - 6);
    group.append(draw("rect", { class: i && !keys.kms_up ? "box" : "box", x, y, width: place.tank[0], height: place.tank[1], rx: 8 }));
    group.append(draw("rect", { class: "tank", x: x + 3, y: y + place.tank[1] - 3 - height, width: place.tank[0] - 6, height, rx: 5 }));
    group.append(draw("text", { class: "name", x: x + 12, y: y + 26 }, name));
    group.append(draw("text", { x: x + 12, y: y + 54 }, shown));
    group.append(draw("text", { class: "note", x: x + 12, y: y + 78 }, note));
  });
  const tank = place.tanks[0];
  group.append(draw("path", { class: "wire", d: place === WIDE ? "M" + (tail[0] + place.step[0] / 2) + "," + tail[1] + "H" + tank[0]
    : "M" + tail[0] + "," + (tail[1] + place.step[1] / 2) + "V" + (tank[1] - 20) + "H" + (tank[0] + place.tank[0] / 2) + "V" + tank[1] }));
  group.append(draw("line", { class: "wire", x1: tank[0] + place.tank[0], y1: tank[1] + 55, x2: place.tanks[1][0], y2: tank[1] + 55 }));
  const below = place === WIDE ? [40, 330] : [20, place.note];
  const lines = ["round trip " + duration(link.round_trip_s),
    pulsed ? "pulse clock " + (known(link.drift) ? (link.drift * 1e6).toFixed(3) + " ppm" : "–") : "clocks " + signedTime(link.offset_s) + ", drift " + (known(link.drift) ? (link.drift * 1e6).toFixed(3) + " ppm" : "–"),
    "authenticated by " + link.authentication];
  lines.forEach((line, i) => group.append(draw("text", { class: "note", x: below[0], y: below[1] + i * 26 }, line)));
  const old = svg.querySelector("g.all");
  group.setAttribute("class", "all");
  const key = JSON.stringify([link, keys, levels, state.peerUp, place === WIDE]);
  if (key !== drawn) { drawn = key; if (old) old.replaceWith(group); else svg.append(group); }
  text("picture-text", describe(state, waiting));
  runBlock(svg, state.blocks[0], place);
}

function runBlock(svg, block, place) {
  if (!block || block.number === shownBlock) return;
  const isFirst = shownBlock === null;
  shownBlock = block.number;
  if (isFirst || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const dot = draw("rect", { class: block.accepted ? "block" : "refused", x: -11, y: -11, width: 22, height: 22, rx: 4 });
  svg.append(dot);
  const stops = block.accepted ? [...place.steps, [place.tanks[0][0] + place.tank[0] / 2, place.tanks[0][1] + 20]] : place.steps.slice(0, 2);
  const frames = stops.map(([x, y]) => ({ transform: "translate(" + x + "px," + y + "px)" }));
  dot.animate(frames, { duration: 2600, easing: "ease-in-out" }).onfinish = () => dot.remove();
}

function detectorRates(state) {
  const counted = state.detectors.slice(0, 4).map((one) => one.counts_per_s);
  if (counted.length === 4) return counted;
  const align = state.align, singles = align ? (state.status.link.role === "alice" ? align.singles_alice : align.singles_bob) : [];
  return singles.length === 4 ? singles : [null, null, null, null];
}

function describe(state, waiting) {
  const link = state.status.link;
  const kind = link.pulses === null ? "A source of photon pairs feeds both nodes." : "Alice sends pulses to Bob.";
  return kind + " This node is " + link.role + ", the other is " + (link.peer || "unknown") + ". Link " + link.state + ", error rate " + percent(link.qber) +
    ", secret rate " + scaled(link.secret_bits_per_s, "bit/s") + (link.label ? " (" + link.label + ")" : "") + ". " + waiting + " bits wait for the KMS, " +
    state.status.keys.handed_over + " blocks were handed over.";
}

/* --- the rest ----------------------------------------------------------------------------------------------------------- */

function alarms(list) {
  const wanted = JSON.stringify(list);
  if (byId("alarms").dataset.shown === wanted) return;
  byId("alarms").dataset.shown = wanted;
  byId("alarms").replaceChildren(...(list.length ? list.map((one) => make("li", { class: one.severity },
    make("strong", { class: one.severity === "critical" ? "bad" : "warn" }, (one.severity === "critical" ? "Critical: " : "Warning: ") + one.title),
    make("span", {}, [one.code ? "[" + one.code + "]" : "", one.detail, one.remedy ? "→ " + one.remedy : ""].filter(Boolean).join(" "))))
    : [make("li", { class: "none" }, make("strong", { class: "good" }, "None"))]));
}

function figures(state) {
  const link = state.status.link, keys = state.status.keys, pulsed = link.pulses;
  const rows = [["Error rate (QBER)", percent(link.qber)], ["tolerated", percent(link.tolerated_error)], ["secret", scaled(link.secret_bits_per_s, "bit/s")],
    ["sifted", scaled(link.sifted_bits_per_s, "bit/s")], ["visibility Z / X", percent(link.visibility_z) + " / " + percent(link.visibility_x)],
    ...(pulsed ? [["detected", percent(pulsed.detected_ratio)], ["gains", pulsed.gains.map((g) => g.toPrecision(3)).join(", ") || "–"]]
      : [["CHSH S, inferred", known(link.chsh_s_inferred) ? link.chsh_s_inferred.toFixed(3) : "–"], ["coincidences", scaled(link.coincidences_per_s, "/s")]]),
    ["blocks", link.blocks_accepted + " accepted, " + link.blocks_refused + " refused"], ["masks left", keys.masks_alice_to_bob + " / " + keys.masks_bob_to_alice],
    ["security budget", percent(keys.epsilon_spent_ratio) + " spent"], ["proof", link.proof], ["up", duration(state.status.uptime_s)]];
  byId("figures").replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  byId("label").hidden = !link.label;
  text("label", link.label ? "Secret bits and rates: " + link.label : "");
}

function spark(id, values, marks, limit, caption) {
  const svg = byId(id), usable = values.filter(known), most = Math.max(1e-12, ...usable, limit || 0) * 1.1, n = Math.max(2, values.length);
  const x = (i) => 4 + i * 472 / (n - 1), y = (value) => 86 - 80 * value / most;
  const points = values.map((value, i) => known(value) ? x(i).toFixed(1) + "," + y(value).toFixed(1) : null).filter(known);
  const parts = [draw("polyline", { class: "line", points: points.join(" ") })];
  if (limit) parts.push(draw("line", { class: "limit", x1: 4, x2: 476, y1: y(limit), y2: y(limit) }));
  marks.forEach((bad, i) => { if (bad) parts.push(draw("rect", { class: "refused", x: x(i) - 2, y: 78, width: 4, height: 12 })); });
  svg.replaceChildren(...parts);
  text(id + "-text", caption);
}

function history(state) {
  const blocks = [...state.blocks].reverse(), marks = blocks.map((b) => !b.accepted), link = state.status.link;
  const refused = marks.filter(Boolean).length, tail = refused ? ", " + refused + " refused (red)" : "";
  spark("spark-qber", blocks.map((b) => b.qber), marks, link.tolerated_error, "Error rate of the last " + blocks.length + " blocks, now " + percent(link.qber) + ", tolerated " + percent(link.tolerated_error) + " (dashed)" + tail);
  spark("spark-rate", blocks.map((b) => b.acquisition_s ? b.secret_bits / b.acquisition_s : null), marks, 0, "Secret rate of the last " + blocks.length + " blocks, now " + scaled(link.secret_bits_per_s, "bit/s") + (link.label ? ", " + link.label : ""));
  table("blocks", ["block", "time", "result", "QBER", "sifted", "secret bits" + (link.label ? " (" + link.label + ")" : ""), "corrected by"], state.blocks.slice(0, 10).map((b) =>
    ["" + b.number, clock(b.time), b.accepted ? ["accepted", "good"] : [b.code || "refused", "bad"], percent(b.qber), "" + b.sifted_bits, "" + b.secret_bits, b.method || "–"]));
}

function parts(state) {
  const problem = (error) => error ? "[" + error.code + "] " + error.message : "";
  table("parts", ["part", "state", "for", "problem"], state.status.parts.map((part) => {
    const shown = part.stalled ? "stalled" : part.state;
    return [part.name, [shown, STATE[shown] || ""], duration(part.since_s), problem(part.error)];
  }));
  table("devices", ["device", "state", "model", "serial", "roles", "problem"], state.devices.map((d) =>
    [d.name, [d.state, STATE[d.state] || ""], (d.vendor + " " + d.model).trim() || d.driver, d.serial, d.roles.join(", "), problem(d.error)]));
}

function alignment(state) {
  const align = state.align, open = Boolean(align && align.open);
  const large = largeByHand === null ? open : largeByHand;
  byId("alignment").hidden = !align && !large;
  document.body.classList.toggle("large", large);
  byId("large").setAttribute("aria-pressed", String(large));
  if (!align) { text("align-text", large ? "No stretch has been opened yet. qkdctl align on either node opens the link for alignment." : ""); return; }
  text("align-text", (open ? "OPEN: both nodes show their clicks, no key is made" + (known(align.seconds_left) ? " (for another " + duration(align.seconds_left) + ")" : "") + ". "
    : "Last opened stretch; qkdctl align repeats it and makes no key. ") + "Stretch " + align.number + (align.problem ? ". " + align.problem : ""));
  const tenth = (value) => known(value) ? (100 * value).toFixed(1) + "\u00a0%" : "–";
  const big = [["Error rate", percent(align.qber)], ["Visibility Z", tenth(align.visibility_z)], ["Visibility X", tenth(align.visibility_x)], ["Coincidences", scaled(align.coincidences_per_s, "/s")]];
  byId("align-big").replaceChildren(...big.map(([name, value]) => make("p", {}, make("b", {}, value), name)));
  const most = Math.max(1, ...align.matrix.flat());
  const head = make("tr", {}, make("td", {}, ""), ...DETECTORS.map((name) => make("th", { scope: "col" }, "Bob " + name)));
  byId("matrix").replaceChildren(head, ...align.matrix.map((row, i) => make("tr", {}, make("th", { scope: "row" }, "Alice " + DETECTORS[i]), ...row.map((count) => {
    const cell = make("td", {}, "" + count);
    cell.style.background = "color-mix(in srgb, var(--fill) " + Math.round(100 * count / most) + "%, var(--card))";
    return cell;
  }))));
  const bars = align.histogram, tallest = Math.max(1, ...bars), width = 620 / Math.max(1, bars.length);
  byId("histogram").replaceChildren(...bars.map((count, i) => draw("rect", { class: "bar", x: (10 + i * width).toFixed(1), y: (260 - 250 * count / tallest).toFixed(1), width: Math.max(1, width - 1).toFixed(1), height: (250 * count / tallest).toFixed(1) })),
    ...(bars.length ? [draw("text", { class: "axis", x: 10, y: 288 }, align.histogram_low_ns.toFixed(1) + " ns"), draw("text", { class: "axis", x: 630, y: 288, "text-anchor": "end" }, (align.histogram_low_ns + bars.length * align.histogram_bin_ns).toFixed(1) + " ns")] : []));
  text("histogram-text", bars.length ? "Alice's time minus Bob's, bins of " + (align.histogram_bin_ns * 1000).toFixed(0) + " ps, highest " + Math.max(...bars) : "No histogram of this stretch");
  const cell = (list, i, show) => known(list[i]) ? show(list[i]) : "–", rate = (v) => scaled(v, "/s"), delay = (v) => (v * 1000).toFixed(0) + " ps";
  table("channels", ["channel", "Alice singles", "Alice delay", "Bob singles", "Bob delay"], DETECTORS.map((name, i) =>
    [name, cell(align.singles_alice, i, rate), cell(align.delays_alice_ns, i, delay), cell(align.singles_bob, i, rate), cell(align.delays_bob_ns, i, delay)]));
}

function show(state) {
  const status = state.status, link = status.link;
  state.peerUp = status.parts.some((part) => part.name === "peer" && part.state === "up");
  document.title = (state.alarms.length ? "(" + state.alarms.length + ") " : "") + status.node + " – qkdd";
  text("node", status.node);
  const shown = link.state === "aligning (open)" ? link.state : status.state;
  text("state", shown);
  byId("state").className = "pill " + (STATE[shown] || "");
  text("role", "link " + link.name + ", " + link.role + ", " + link.protocol + ", link " + link.state + ", qkdd " + status.version);
  alarms(state.alarms); picture(state); figures(state); alignment(state); history(state); parts(state);
}

function freshness() {
  const age = (Date.now() - lastAt) / 1000;
  if (lastAt && age < 5) { text("live", "live"); byId("live").className = "good"; }
  else if (lastAt) { text("live", "NO NEWS since " + new Date(lastAt).toLocaleTimeString([], { hour12: false }) + ": figures are old"); byId("live").className = "bad"; }
}

byId("large").addEventListener("click", () => { largeByHand = !document.body.classList.contains("large"); if (last) alignment(last); });
matchMedia("(max-width: 40rem)").addEventListener("change", () => { if (last) picture(last); });
new EventSource("events").addEventListener("state", (message) => { last = JSON.parse(message.data); lastAt = Date.now(); show(last); freshness(); });
setInterval(freshness, 1000);
