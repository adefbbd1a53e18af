// Asks for what changed, every two seconds while someone looks, and hands it to the parts of the page.
"use strict";
(() => {
  const live = (window.live ??= {});
  const POLL_MS = 2000, HIDDEN_MS = 15000;
  const byId = (id) => document.getElementById(id);
  let since = "", sections = "", picked = [], view = "trial", asking = false, timer = 0, curveTag = "", curvesAsked = 0;
  live.jobs = [];
  live.plan = { variants: [], baseline: null };
  live.shown = new Set();

  live.duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "—";
    if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60);
    if (minutes < 60) return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60) % 60).padStart(2, "0")} s`;
    return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
  };

  // As the report has it: 0 is the baseline's alone, 1 to 7 repeat.
  live.colour = (place) => {
    const base = Math.max(0, live.plan.variants.indexOf(live.plan.baseline));
    const other = place === base ? 0 : place < base ? place + 1 : place;
    return other === 0 ? 0 : ((other - 1) % 7) + 1;
  };

  live.fillTable = (table, columns, rows) => {
    const cell = (text, name) => Object.assign(document.createElement(name), { textContent: text });
    const line = (cells) => { const tr = document.createElement("tr"); tr.append(...cells); return tr; };
    const head = document.createElement("thead"), body = document.createElement("tbody");
    head.append(line(columns.map((name) => Object.assign(cell(name, "th"), { scope: "col" }))));
    body.append(...rows.map((row) => line(row.map((text) => cell(text, "td")))));
    table.replaceChildren(head, body);
  };

  const say = (id, text) => { const node = byId(id); if (node.textContent !== text) node.textContent = text; };

  function takePlan(plan) {
    live.plan = plan;
    live.jobs = plan.jobs.map(([id, stage, seed, variants, steps, expected], i) => ({ i, id, stage, seed, variants, steps, expected, s: "pending" }));
    say("name", plan.name);
    document.title = `${plan.name} — live`;
  }

  function tiles(counts, outlook) {
    const all = live.jobs.length, count = (state) => counts[state] ?? 0;
    const lost = count("failed") + count("blocked"), left = all - count("done") - lost;
    const state = !all ? "not started" : count("running") ? "running" : count("done") === all ? "finished" : !left ? "finished with failures" : "waiting";
    byId("state").className = `state state-${state.split(" ")[0] === "waiting" ? "interrupted" : lost && !count("running") ? "failed" : state.split(" ")[0]}`;
    say("state", state);
    say("done", count("done").toLocaleString("en"));
    say("of", ` of ${all.toLocaleString("en")}`);
    byId("share").value = all ? count("done") / all : 0;
    say("running", count("running").toLocaleString("en"));
    say("waiting", `${(left - count("running")).toLocaleString("en")} waiting`);
    say("failed", lost.toLocaleString("en"));
    say("left", outlook.left_s === null ? "—" : `≥ ${live.duration(outlook.left_s)}`);
    const done = outlook.left_s === null ? null : new Date(Date.now() + 1000 * outlook.left_s);
    say("done-at", done ? `done ${done.toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" })} on ${outlook.slots} busy slot${outlook.slots === 1 ? "" : "s"}` : outlook.unknown && left ? `time of ${outlook.unknown} jobs not known` : "");
  }

  function alerts(list) {
    byId("alerts").hidden = !list.length;
    byId("alert-list").replaceChildren(...list.slice(-20).reverse().map((alert) => {
      const item = document.createElement("li");
      item.textContent = `${new Date(alert.t * 1000).toLocaleString()} · ${alert.kind}${alert.job ? ` · ${alert.job}` : ""}: ${alert.message}`;
      return item;
    }));
  }

  function take(told) {
    const start = performance.now();
    if (told.plan) takePlan(told.plan);
    for (const job of told.jobs) {
      const old = live.jobs[job.i];
      if (!old) continue;
      const { i, id, stage, seed, variants, steps, expected } = old;
      live.jobs[job.i] = { i, id, stage, seed, variants, steps, expected, ...job };
    }
    if (told.counts) {
      tiles(told.counts, told.outlook);
      live.drawStates(told.counts);
    }
    if (told.plan) live.planGrid();
    else if (told.jobs.length) refresh(told.jobs);
    if (told.alerts) alerts(told.alerts);
    if (told.timeline) live.drawSlots(told.timeline);
    byId("nothing").hidden = !told.problem;
    byId("grid-part").hidden = !live.jobs.length;
    say("nothing", told.problem ? `${told.problem}: tunestudy run begins or continues it` : "");
    say("pulse", `as of ${new Date(told.now * 1000).toLocaleTimeString()}`);
    byId("pulse").classList.remove("lost");
    since = told.version;
    document.documentElement.dataset.appliedMs = (performance.now() - start).toFixed(1);
    document.documentElement.dataset.version = since;
  }

  // Cells hold their job by place: those that changed get the new one.
  function refresh(jobs) {
    live.updateGrid(jobs.map((job) => job.i));
  }

  async function curves(force) {
    if (!live.jobs.length) return;
    const asked = new URLSearchParams({ view }), turn = (curvesAsked += 1);
    for (const name of picked) asked.append("variant", name);
    const answer = await fetch(`/curves?${asked}`, { headers: force ? {} : { "If-None-Match": curveTag } });
    if (!answer.ok || answer.status === 304) return;
    const told = await answer.json();
    if (turn !== curvesAsked) return; // something else was chosen meanwhile
    curveTag = answer.headers.get("ETag") ?? "";
    const some = Object.values(told.views).flatMap(Object.values).some((lines) => lines.length);
    byId("curve-controls").hidden = byId("charts").hidden = !some;
    for (const key of ["overall", "order_value"])
      document.querySelector(`[data-chart="${key}"]`).hidden = !told.views[told.view][key].length;
    live.shown = new Set(told.shown);
    live.markShown();
    const choice = byId("live-view");
    if (choice.dataset.choices !== JSON.stringify(told.choices)) {
      choice.dataset.choices = JSON.stringify(told.choices);
      choice.replaceChildren(...told.choices.map(([key, label]) => Object.assign(document.createElement("option"), { value: key, textContent: label })));
    }
    choice.value = view = told.view;
    byId("curve-choice").hidden = false;
    const part = live.plan.variants.length > told.shown.length ? `${told.shown.length} of ${live.plan.variants.length} variants are drawn, ${told.most} at the most; choose them by their names in the table of jobs.` : "";
    say("curve-choice", told.left ? `${part} Logs are still being read: ${(told.left / 2 ** 20).toFixed(0)} MiB left.` : some ? part : "No step has been logged yet.");
    if (some) document.dispatchEvent(new CustomEvent("curves", { detail: told }));
    document.documentElement.dataset.curves = told.left ? "reading" : "drawn";
    if (told.left) setTimeout(() => curves(true).catch(() => {}), 50);
  }

  live.toggleCurves = (name) => {
    const now = picked.length ? picked : [...live.shown];
    picked = now.includes(name) ? now.filter((other) => other !== name) : [...now, name];
    live.shown = new Set(picked);
    live.markShown();
    curves(true).catch(() => {});
  };

  async function takeSections(version) {
    const answer = await fetch("/sections");
    if (!answer.ok) return;
    const told = await answer.json();
    sections = version;
    const place = byId("report-sections"), open = new Set([...place.querySelectorAll("details[open] > summary")].map((node) => node.textContent));
    if (told.html) place.innerHTML = told.html; // escaped where it is made; the policy lets no script in it run
    for (const summary of place.querySelectorAll("details > summary")) if (open.has(summary.textContent)) summary.parentElement.open = true;
    links(place);
    byId("sections-wait").hidden = Boolean(told.html && !told.problem);
    if (told.problem) say("sections-wait", told.html ? `${told.problem}; below is what was made last` : told.problem);
    for (const [id, text] of [["sentence", told.sentence], ["description", told.description]]) {
      byId(id).hidden = !text;
      say(id, text);
    }
    byId("gallery-link").hidden = !told.has_gallery;
    if (told.made_at) say("made", `Tables made ${new Date(told.made_at * 1000).toLocaleString()} from the study’s files; nothing is ever written to them.`);
    document.documentElement.dataset.sections = told.html ? "drawn" : "none";
  }

  function links(place) {
    const list = document.querySelector(".contents ul");
    for (const old of list.querySelectorAll("[data-made]")) old.remove();
    for (const heading of place.querySelectorAll("section[id] > h2")) {
      const item = document.createElement("li"), link = document.createElement("a");
      item.dataset.made = "";
      link.href = `#${heading.parentElement.id}`;
      link.textContent = heading.dataset.short || heading.textContent.trim();
      item.append(link);
      list.append(item);
    }
  }

  async function look() {
    const answer = await fetch(`/data?${new URLSearchParams({ since })}`);
    if (!answer.ok) throw new Error(await answer.text());
    const told = await answer.json();
    const fresh = told.plan || told.jobs.length;
    take(told);
    if (fresh) await curves(Boolean(told.plan));
    if (told.sections !== sections && !told.sections.endsWith("-0")) await takeSections(told.sections);
    return told.stale;
  }

  async function poll() {
    asking = true;
    const soon = await look().catch((error) => {
      const gone = error instanceof TypeError; // fetch's own failure
      byId("pulse").classList.add("lost");
      say("pulse", gone ? "tunestudy serve does not answer any more; this is the last that was known" : error.message.trim());
    });
    asking = false;
    timer = setTimeout(poll, soon ? 0 : document.hidden ? HIDDEN_MS : POLL_MS);
  }

  byId("live-view").addEventListener("change", (event) => { view = event.target.value; curves(true).catch(() => {}); });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || asking) return;
    clearTimeout(timer);
    poll();
  });
  if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token stays in the cookie alone
  poll();
})();
