// Variants × stages, a cell per seed. A page of rows at a time: ten thousand jobs stay quick.
"use strict";
(() => {
  const live = (window.live ??= {});
  const WORDS = { pending: "waiting", evaluate: "to be scored" };
  const SIGNS = { done: "✓", running: "▸", failed: "✕", blocked: "⊘", pending: "·", interrupted: "‖", evaluate: "◔" };
  const ORDER = ["running", "failed", "blocked", "interrupted", "evaluate", "pending", "done"];
  const MOST_CELLS = 1200, MOST_ROWS = 40;
  const only = new Set();
  let rows = [], stages = [], page = 0, cells = new Map(), current = null;

  live.word = (state) => WORDS[state] ?? state;

  // Rows of the table: [variant, {stage: [job, …]}].
  live.planGrid = () => {
    stages = [...new Set(live.jobs.map((job) => job.stage))];
    rows = live.plan.variants.map((name) => ({ name, stages: new Map() }));
    for (const job of live.jobs) {
      for (const variant of job.variants) {
        const of = rows[variant].stages;
        if (!of.has(job.stage)) of.set(job.stage, []);
        of.get(job.stage).push(job);
      }
    }
    page = 0;
    draw();
  };

  function chosen() {
    const text = document.getElementById("find").value.trim().toLowerCase();
    return rows.filter((row) => {
      const named = !text || row.name.toLowerCase().includes(text) || [...row.stages.keys()].some((stage) => stage.toLowerCase().includes(text));
      return named && (!only.size || [...row.stages.values()].flat().some((job) => only.has(job.s)));
    });
  }

  function perPage() {
    const widest = Math.max(1, ...rows.slice(0, 200).map((row) => [...row.stages.values()].flat().length));
    return Math.max(5, Math.min(MOST_ROWS, Math.floor(MOST_CELLS / widest)));
  }

  function share(job) {
    const total = job.total_steps ?? job.steps;
    return job.step > 0 && total > 0 ? Math.min(1, job.step / total) : null;
  }

  function describe(job) {
    const part = [`${job.stage}, seed ${job.seed}: ${live.word(job.s)}`];
    if (job.s === "running" && job.step !== undefined) part.push(`step ${job.step}${job.total_steps ? ` of ${job.total_steps}` : ""}`);
    if (job.s === "running" && job.eta_s !== undefined) part.push(`${live.duration(job.eta_s)} left`);
    if (job.slot && job.s !== "done") part.push(`on ${job.slot}`);
    if (job.attempts > 1) part.push(`attempt ${job.attempts}`);
    if (job.error) part.push(job.error);
    return part.join(", ");
  }

  function fill(button, job, variant) {
    const part = job.s === "running" ? share(job) : null;
    button.className = `cell is-${job.s}`;
    button.replaceChildren(`${job.seed}`, Object.assign(document.createElement("i"), { textContent: part === null ? SIGNS[job.s] ?? "?" : `${Math.round(100 * part)}%` }));
    if (part !== null) button.append(Object.assign(document.createElement("progress"), { max: 1, value: part, ariaHidden: "true" }));
    const words = describe(job);
    button.setAttribute("aria-label", `${variant}, ${words}`);
    button.title = words;
  }

  function cell(job, row) {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.dataset.job = job.i;
    fill(button, job, row.name);
    if (!cells.has(job.i)) cells.set(job.i, []);
    cells.get(job.i).push([button, row.name]);
    return button;
  }

  function rowOf(row) {
    const tr = document.createElement("tr"), head = document.createElement("th"), name = document.createElement("button");
    const place = live.plan.variants.indexOf(row.name);
    head.scope = "row";
    name.type = "button";
    name.className = "variant";
    name.dataset.variant = row.name;
    name.setAttribute("aria-pressed", String(live.shown.has(row.name)));
    name.title = "show or leave out its curves";
    const mark = Object.assign(document.createElement("span"), { className: `mark c${live.colour(place)}${row.name === live.plan.baseline ? " ring" : ""}`, ariaHidden: "true" });
    name.append(mark, row.name);
    head.append(name);
    tr.append(head, ...stages.map((stage) => {
      const td = document.createElement("td");
      const jobs = row.stages.get(stage) ?? [];
      td.dataset.stage = stage;
      td.append(...(jobs.length ? jobs.map((job) => cell(job, row)) : [Object.assign(document.createElement("span"), { className: "quiet", textContent: "—" })]));
      return td;
    }));
    return tr;
  }

  function draw() {
    const table = document.getElementById("grid"), wanted = chosen(), size = perPage();
    const focused = document.activeElement?.closest?.("#grid button");
    const kept = focused && (focused.dataset.variant ? ["variant", focused.dataset.variant] : ["job", focused.dataset.job]);
    page = Math.min(page, Math.max(0, Math.ceil(wanted.length / size) - 1));
    cells = new Map();
    const head = document.createElement("tr");
    head.append(...["Variant", ...stages].map((text) => Object.assign(document.createElement("th"), { scope: "col", textContent: text })));
    const top = document.createElement("thead"), body = document.createElement("tbody");
    top.append(head);
    body.append(...wanted.slice(page * size, (page + 1) * size).map(rowOf));
    if (!wanted.length) {
      const none = Object.assign(document.createElement("td"), { colSpan: stages.length + 1, className: "empty", textContent: "no variant is like that" });
      const tr = document.createElement("tr");
      tr.append(none);
      body.append(tr);
    }
    table.replaceChildren(top, body);
    document.getElementById("pager").hidden = wanted.length <= size;
    document.getElementById("place").textContent = `${page * size + 1} to ${Math.min(wanted.length, (page + 1) * size)} of ${wanted.length} variants`;
    document.getElementById("before").disabled = page === 0;
    document.getElementById("after").disabled = (page + 1) * size >= wanted.length;
    const again = kept && table.querySelector(`button[data-${kept[0]}="${CSS.escape(kept[1])}"]`);
    if (again) again.focus({ preventScroll: true });
    const reachable = table.querySelector(`button.cell[data-job="${current}"]`) ?? table.querySelector("button.cell");
    if (reachable) reachable.tabIndex = 0;
  }

  live.updateGrid = (changed) => {
    if (only.size) return draw();
    for (const index of changed) for (const [button, variant] of cells.get(index) ?? []) fill(button, live.jobs[index], variant);
  };

  live.markShown = () => {
    for (const button of document.querySelectorAll("#grid .variant")) button.setAttribute("aria-pressed", String(live.shown.has(button.dataset.variant)));
  };

  live.drawStates = (counts) => {
    const group = document.getElementById("states");
    const seen = ORDER.filter((state) => counts[state] || only.has(state));
    const texts = seen.map((state) => `${counts[state] ?? 0} ${live.word(state)}`);
    if (group.dataset.seen === seen.join()) return [...group.children].forEach((button, place) => { button.lastChild.textContent = texts[place]; });
    group.dataset.seen = seen.join();
    group.replaceChildren(...seen.map((state, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `state state-${state}`;
      button.setAttribute("aria-pressed", String(only.has(state)));
      button.append(texts[place]);
      button.addEventListener("click", () => {
        if (!only.delete(state)) only.add(state);
        button.setAttribute("aria-pressed", String(only.has(state)));
        page = 0;
        draw();
      });
      return button;
    }));
    document.getElementById("grid-key").replaceChildren(...Object.entries(SIGNS).map(([state, sign]) => Object.assign(document.createElement("span"), { textContent: `${sign} ${live.word(state)}` })));
  };

  function move(from, key) {
    const all = [...document.querySelectorAll("#grid button.cell")];
    const at = all.indexOf(from);
    if (key === "ArrowRight" || key === "ArrowLeft") return all[at + (key === "ArrowRight" ? 1 : -1)];
    if (key === "Home" || key === "End") return key === "Home" ? all[0] : all[all.length - 1];
    const place = [...from.parentElement.children].indexOf(from), stage = from.parentElement.dataset.stage;
    for (let row = from.closest("tr"); (row = key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling);) {
      const there = [...row.children].find((td) => td.dataset.stage === stage)?.querySelectorAll("button.cell");
      if (there?.length) return there[Math.min(place, there.length - 1)];
    }
    return null;
  }

  const table = document.getElementById("grid");
  table.addEventListener("keydown", (event) => {
    const from = event.target.closest("button.cell");
    if (!from || !["ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const to = move(from, event.key);
    if (!to) return;
    from.tabIndex = -1;
    to.tabIndex = 0;
    current = to.dataset.job;
    to.focus();
  });
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("variant")) return live.toggleCurves(button.dataset.variant);
    if (button?.dataset.job) {
      current = button.dataset.job;
      live.openJob(live.jobs[Number(button.dataset.job)].id);
    }
  });
  document.getElementById("find").addEventListener("input", () => { page = 0; draw(); });
  document.getElementById("before").addEventListener("click", () => { page -= 1; draw(); });
  document.getElementById("after").addEventListener("click", () => { page += 1; draw(); });
})();
