// What ran where: a row per slot, a bar per attempt (or per group of attempts too close to tell apart).
"use strict";
(() => {
  const live = (window.live ??= {});
  const SVG = "http://www.w3.org/2000/svg";
  const ROW = 22, LEFT = 76, TOP = 6, FOOT = 22;
  let last = null;

  function shape(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const clock = (seconds, span) => new Date(seconds * 1000).toLocaleString([], span > 86400
    ? { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" } : { hour: "2-digit", minute: "2-digit", second: span < 600 ? "2-digit" : undefined });

  function draw() {
    const place = document.getElementById("slot-bars");
    const width = place.clientWidth, span = Math.max(1e-3, last.end - last.start);
    const at = (time) => LEFT + ((time - last.start) / span) * (width - LEFT - 8);
    const height = TOP + last.slots.length * ROW + FOOT;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "slot-bars", "aria-label": `Attempts on ${last.slots.length} slots over time. The table below says the same.` });
    const stops = width < 500 ? 1 : 4;
    for (let stop = 0; stop <= stops; stop += 1) {
      const time = last.start + (span * stop) / stops, x = at(time);
      svg.append(shape("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: height - FOOT }));
      svg.append(shape("text", { x, y: height - 6, "text-anchor": stop === 0 ? "start" : stop === stops ? "end" : "middle" }, clock(time, span)));
    }
    last.slots.forEach((slot, row) => {
      const y = TOP + row * ROW;
      svg.append(shape("text", { x: LEFT - 8, y: y + 15, "text-anchor": "end" }, slot.name.length > 11 ? `${slot.name.slice(0, 10)}…` : slot.name));
      for (const [start, end, outcome, what] of slot.bars) {
        const bar = shape("rect", { class: `bar bar-${outcome}`, x: at(start), y: y + 3, width: Math.max(1.5, at(end) - at(start) - 0.5), height: ROW - 6, rx: 2 });
        bar.append(shape("title", {}, `${typeof what === "number" ? `${what} attempts` : what}, ${outcome}, ${live.duration(end - start)} on ${slot.name}`));
        if (typeof what !== "number") bar.addEventListener("click", () => live.openJob(what));
        svg.append(bar);
      }
    });
    place.replaceChildren(svg);
  }

  function table() {
    const body = last.slots.map((slot) => {
      const busy = slot.bars.reduce((sum, [start, end]) => sum + end - start, 0);
      const attempts = slot.bars.reduce((sum, bar) => sum + (typeof bar[3] === "number" ? bar[3] : 1), 0);
      const failed = slot.bars.reduce((sum, bar) => sum + (bar[2] === "failed" ? (typeof bar[3] === "number" ? bar[3] : 1) : 0), 0);
      return [slot.name, attempts, failed, live.duration(busy), `${Math.round((100 * busy) / Math.max(1e-3, last.end - last.start))} %`];
    });
    live.fillTable(document.getElementById("slots-table"), ["Slot", "Attempts", "Failed", "Busy", "Share of the time"], body);
  }

  live.drawSlots = (timeline) => {
    last = timeline;
    const some = timeline.slots.length > 0;
    document.getElementById("no-slots").hidden = some;
    document.getElementById("slots-figure").hidden = !some;
    document.getElementById("slots-words").hidden = !some;
    if (!some) return;
    draw();
    table();
  };
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => last?.slots.length && draw(), 100);
  });
})();
