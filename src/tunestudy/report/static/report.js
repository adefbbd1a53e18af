// Draws the learning curves of report/index.html from the JSON inside the page. Without it the page's tables say the same.
// The live page has none inside: it sends them as they grow, by the event `curves`.
"use strict";
(() => {
  const inside = document.getElementById("curve-data");
  let data = inside ? JSON.parse(inside.textContent) : { charts: [], views: {} };
  const state = { view: Object.keys(data.views)[0], hidden: new Set(), seeds: true, band: true, log: false };
  const plots = new Map(); // chart key → {plot, owners, shape}

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colourOf = (line) => css(line.colour === "x" ? "--soft" : `--c${line.colour}`);
  const dashOf = (line) => (line.dashed ? [6, 4] : undefined); // when colours repeat
  const faded = (colour, share) => `${colour}${Math.round(share * 255).toString(16).padStart(2, "0")}`;

  function number(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size < 1e-3 || size >= 1e6 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  }

  // One table per line and per seed, joined over all steps; `owners` says what each joined column is.
  function columns(lines, chart) {
    const usable = (values) => (state.log && chart.log ? values.map((v) => (v > 0 ? v : null)) : values);
    const tables = [], owners = [null];
    for (const line of lines) {
      tables.push([line.x, usable(line.low), usable(line.high), usable(line.mean)]);
      owners.push([line, "low"], [line, "high"], [line, "mean"]);
      for (const seed of line.seeds) {
        tables.push([seed.x, usable(seed.y)]);
        owners.push([line, "seed"]);
      }
    }
    return { values: tables.length ? uPlot.join(tables) : [[]], owners };
  }

  function seriesOf([line, kind], chart) {
    const colour = colourOf(line);
    const points = { show: false };
    const marked = chart.marks ? { show: true, size: 7, fill: colour } : line.x.length === 1 ? {} : points;
    if (kind === "mean") return { stroke: colour, width: 2, dash: dashOf(line), spanGaps: true, points: marked };
    const many = line.seeds.length > 1;
    if (kind === "seed") return { stroke: faded(colour, 0.6), width: 1, dash: dashOf(line), spanGaps: true, points, show: state.seeds && many };
    return { stroke: "transparent", width: 0, spanGaps: true, points, show: state.band && many };
  }

  function options(chart, lines, owners, width) {
    const ink = css("--soft"), grid = { stroke: css("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: { ...grid, size: 4 }, font: `12px ${css("--sans")}` };
    const onLog = state.log && chart.log;
    const round = (value) => !onLog || Math.abs(value / Number(value.toPrecision(1)) - 1) < 1e-9; // its lowest tick is not
    const bands = [];
    owners.forEach((owner, place) => {
      if (owner && owner[1] === "low" && state.band && owner[0].seeds.length > 1)
        bands.push({ series: [place + 1, place], fill: faded(colourOf(owner[0]), 0.13) });
    });
    return {
      width, height: 220, bands,
      series: [{}, ...owners.slice(1).map((owner) => seriesOf(owner, chart))],
      scales: { x: { time: false }, y: onLog ? { distr: 3, range: (_, low, high) => [low / 1.1, high * 1.1] } : {} },
      axes: [{ ...axis, size: 32, values: (_, ticks) => ticks.map(number) }, { ...axis, size: 58, values: (_, ticks) => ticks.map((v) => (v === null || !round(v) ? "" : number(v))) }],
      cursor: { sync: { key: "curves", setSeries: false }, points: { show: false }, drag: { x: false, y: false } },
      hooks: { setCursor: [(plot) => tell(chart.key, plot)], drawAxes: [boundaries] },
    };
  }

  // Dashed lines where one stage ends and the next begins, with its name.
  function boundaries(plot) {
    const { ctx, bbox } = plot, ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.strokeStyle = css("--strong");
    ctx.fillStyle = css("--soft");
    ctx.font = `${11 * ratio}px ${css("--sans")}`;
    ctx.textAlign = "left";
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    for (const { x, label } of data.boundaries ?? []) {
      const at = plot.valToPos(x, "x", true);
      if (at < bbox.left || at > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText(label, at + 4 * ratio, bbox.top + 11 * ratio);
    }
    ctx.restore();
  }

  // The values under the cursor, in the figure's caption.
  function tell(key, plot) {
    const out = document.querySelector(`[data-chart="${key}"] .readout`);
    const index = plot.cursor.idx;
    out.replaceChildren();
    if (index === null || index === undefined) return;
    out.append(`step ${plot.data[0][index]}`);
    plots.get(key)?.owners.forEach((owner, place) => {
      if (!owner || owner[1] !== "mean") return;
      let at = index;
      while (at > 0 && (plot.data[place][at] === undefined || plot.data[place][at] === null)) at -= 1;
      const value = plot.data[place][at];
      if (value === undefined || value === null || plot.data[0][index] > owner[0].x[owner[0].x.length - 1]) return;
      out.append(" ", mark(owner[0]), hidden(`${owner[0].label} `), number(value));
    });
  }

  function mark(line) {
    const span = document.createElement("span");
    span.className = `mark c${line.colour}`;
    return span;
  }

  function hidden(text) {
    const span = document.createElement("span");
    span.className = "visually-hidden";
    span.textContent = text;
    return span;
  }

  // grows: the same lines with more points, so that cursor and canvas may stay.
  function draw(chart, grows) {
    const place = document.querySelector(`[data-chart="${chart.key}"] .plot`);
    const lines = data.views[state.view][chart.key].filter((line) => !state.hidden.has(line.label));
    const shape = JSON.stringify([state.view, state.seeds, state.band, state.log && chart.log, place.clientWidth, lines.map((line) => [line.label, line.colour, line.seeds.length, line.x.length === 1])]);
    const held = plots.get(chart.key);
    if (held && held.shape === shape && grows) {
      const { values, owners } = columns(lines, chart);
      held.owners = owners;
      held.plot.setData(values);
      return;
    }
    held?.plot?.destroy();
    place.replaceChildren();
    if (!lines.length) {
      const none = document.createElement("p");
      none.className = "empty";
      none.textContent = data.views[state.view][chart.key].length ? "every line is hidden" : "not logged";
      place.append(none);
      plots.delete(chart.key);
      return;
    }
    const { values, owners } = columns(lines, chart);
    plots.set(chart.key, { owners });
    const plot = new uPlot(options(chart, lines, owners, place.clientWidth), values, place);
    plots.set(chart.key, { plot, owners, shape });
  }

  const drawAll = (grows = false) => data.charts.forEach((chart) => draw(chart, grows === true));

  function chips() {
    const group = document.getElementById("curve-lines");
    const all = new Map(data.charts.flatMap((chart) => data.views[state.view][chart.key]).map((line) => [line.label, line]));
    group.replaceChildren(...[...all.values()].map((line) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!state.hidden.has(line.label)));
      button.append(mark(line), line.label);
      button.addEventListener("click", () => {
        if (!state.hidden.delete(line.label)) state.hidden.add(line.label);
        button.setAttribute("aria-pressed", String(!state.hidden.has(line.label)));
        drawAll();
      });
      return button;
    }));
  }

  const lineNames = () => JSON.stringify(Object.values(data.views).flatMap(Object.values).flat().map((line) => [line.label, line.colour]));

  // Arrow keys move the cursor of a focused chart, Home and End jump.
  function keys(key, event) {
    const held = plots.get(key)?.plot;
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!held || !(event.key in moves)) return;
    event.preventDefault();
    const steps = held.data[0], now = held.cursor.idx ?? 0;
    const next = Math.min(steps.length - 1, Math.max(0, now + moves[event.key]));
    held.setCursor({ left: held.valToPos(steps[next], "x"), top: held.over.clientHeight / 2 });
  }

  for (const button of document.querySelectorAll("[data-switch]")) {
    button.addEventListener("click", () => {
      state[button.dataset.switch] = !state[button.dataset.switch];
      button.setAttribute("aria-pressed", String(state[button.dataset.switch]));
      drawAll();
    });
  }
  document.getElementById("curve-view")?.addEventListener("change", (event) => {
    state.view = event.target.value;
    state.hidden.clear();
    chips();
    drawAll();
  });
  for (const figure of document.querySelectorAll("[data-chart]"))
    figure.querySelector(".plot").addEventListener("keydown", (event) => keys(figure.dataset.chart, event));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting = 0, width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // phones report a resize when their address bar hides
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 80);
  });

  document.addEventListener("curves", (event) => {
    const before = state.view, names = lineNames();
    data = event.detail;
    state.view = Object.keys(data.views)[0];
    if (before !== state.view) state.hidden.clear();
    if (names !== lineNames()) chips(); // else a button that has the focus would lose it
    drawAll(true);
  });

  if (!data.charts.length) return;
  document.getElementById("curve-controls").hidden = false;
  chips();
  drawAll();
})();
