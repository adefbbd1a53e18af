// One job in a dialog: state, error, log that goes on, settings, where its numbers come from, some answers.
"use strict";
(() => {
  const live = (window.live ??= {});
  const dialog = document.getElementById("job"), body = document.getElementById("job-body");
  const MOST_TEXT = 400_000;
  let shown = null, log = null, timer = 0;

  function element(name, text, className) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function facts(pairs) {
    const list = element("dl", undefined, "facts");
    for (const [name, value] of pairs) {
      if (value === undefined || value === null || value === "") continue;
      const term = element("dt", name), told = element("dd");
      told.append(value);
      list.append(term, told);
    }
    return list;
  }

  function settings(told) {
    const pairs = Object.entries(told.settings);
    if (!pairs.length) return [];
    return [element("h3", "Settings"), facts(pairs.map(([key, value]) => [key, element("code", value)])), element("p", "Those that someone chose; defaults are left out.", "fine")];
  }

  function answers(told) {
    const found = [];
    for (const [benchmark, rows] of Object.entries(told.predictions)) {
      if (!rows.length) continue;
      const columns = [...new Set(rows.flatMap(Object.keys))];
      const box = element("div", undefined, "scroll"), table = element("table", undefined, "dense");
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", `Answers on ${benchmark}`);
      live.fillTable(table, columns, rows.map((row) => columns.map((column) => row[column] ?? "—")));
      box.append(table);
      found.push(element("h3", `Answers on ${benchmark}`), box);
    }
    return found;
  }

  function attempts(told) {
    return told.spans.map(([attempt, slot, start, end, outcome]) => `${attempt}: ${outcome} on ${slot}${end === null ? "" : `, ${live.duration(end - start)}`}`).join("; ");
  }

  // An answer is for the log that asked: another may be shown when it arrives. Each piece is asked for once.
  async function readLog() {
    const mine = log;
    if (!mine || mine.asking) return;
    mine.asking = true;
    const asked = new URLSearchParams({ id: mine.id, name: mine.name, ...(mine.next === null ? {} : { from: mine.next }) });
    const piece = await fetch(`/log?${asked}`).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
    mine.asking = false;
    if (!piece || log !== mine) return;
    const first = mine.next === null;
    mine.next = piece.next;
    if (!piece.text && !first) return;
    mine.text = (mine.text + piece.text).slice(-MOST_TEXT);
    const pre = document.getElementById("log-text");
    pre.textContent = mine.text || "nothing yet";
    if (document.getElementById("log-follow").checked) pre.scrollTop = pre.scrollHeight;
  }

  function follow(id, name) {
    log = { id, name, next: null, text: "", asking: false };
    readLog();
  }

  function logPart(told) {
    if (!told.logs.length) return [element("h3", "Log"), element("p", "It has not printed anything yet.", "empty")];
    const row = element("div", undefined, "controls"), choice = element("select"), tick = element("input");
    const pre = element("pre", "…", "source");
    choice.append(...told.logs.map((name) => Object.assign(element("option", name), { value: name })));
    choice.setAttribute("aria-label", "Which log");
    choice.addEventListener("change", () => follow(told.id, choice.value));
    Object.assign(tick, { type: "checkbox", id: "log-follow", checked: true });
    const label = element("label");
    label.append(tick, " follow");
    pre.id = "log-text";
    pre.tabIndex = 0;
    row.append(choice, label);
    return [element("h3", "Log"), row, pre];
  }

  function fill(told) {
    const progress = told.progress, failure = told.failure;
    const words = live.word(told.state);
    document.getElementById("job-title").textContent = told.id;
    const status = element("span", words, `state state-${told.state}`);
    const parts = [facts([
      ["state", status],
      ["used by", told.variants.join(", ")],
      ["seed", String(told.seed)],
      ["starts from", told.needs.join(", ") || "the study’s model"],
      ["step", progress.step === undefined || progress.step === null ? "" : `${progress.step} of ${progress.total_steps ?? "?"}`],
      ["loss", progress.loss?.toPrecision?.(4)],
      ["time left", told.state === "running" && progress.eta_s ? live.duration(progress.eta_s) : ""],
      ["expected", told.expected_s ? live.duration(told.expected_s) : ""],
      ["attempts", attempts(told)],
      ...Object.entries(told.scores),
    ])];
    if (failure.message) {
      const box = element("div", undefined, "failure");
      box.append(element("strong", `${failure.kind ?? "error"}${failure.step ? ` at step ${failure.step}` : ""}`), element("p", failure.message), element("p", failure.where ?? "", "fine"));
      parts.push(box);
    }
    parts.push(...logPart(told), ...settings(told), ...answers(told));
    parts.push(element("h3", "Where its numbers come from"), facts(Object.entries(told.provenance)));
    body.replaceChildren(...parts);
    if (told.logs.length) follow(told.id, told.logs[0]);
  }

  live.openJob = async (id) => {
    shown = id;
    log = null;
    document.getElementById("job-title").textContent = id;
    body.replaceChildren(element("p", "reading …", "empty"));
    if (!dialog.open) dialog.showModal();
    document.getElementById("job-title").focus();
    const answer = await fetch(`/job?${new URLSearchParams({ id })}`).catch(() => null);
    const told = await (answer?.ok ? answer.json() : answer?.text())?.catch(() => null);
    if (shown !== id) return;
    if (!answer?.ok || !told) {
      body.replaceChildren(element("p", told || "the page’s server does not answer any more", "empty"));
      return;
    }
    fill(told);
    clearInterval(timer);
    timer = setInterval(() => !document.hidden && readLog(), 2000);
  };
  document.getElementById("job-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => { shown = null; log = null; clearInterval(timer); });
})();
