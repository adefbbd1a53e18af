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

  async function readLog(again) {
    if (!shown || !log) return;
    const asked = new URLSearchParams({ id: shown, name: log.name, ...(again ? {} : { from: log.next }) });
    const answer = await fetch(`/log?${asked}`).catch(() => null);
    if (!answer?.ok || !log) return;
    const piece = await answer.json();
    const pre = document.getElementById("log-text"), follow = document.getElementById("log-follow").checked;
    log.next = piece.next;
    if (again) log.text = "";
    if (piece.text || again) {
      log.text = (log.text + piece.text).slice(-MOST_TEXT);
      pre.textContent = log.text || "nothing yet";
      if (follow) pre.scrollTop = pre.scrollHeight;
    }
  }

  function logPart(told) {
    log = null;
    if (!told.logs.length) return [element("h3", "Log"), element("p", "It has not printed anything yet.", "empty")];
    log = { name: told.logs[0], next: 0, text: "" };
    const row = element("div", undefined, "controls"), choice = element("select"), follow = element("input");
    const pre = element("pre", "…", "source");
    choice.append(...told.logs.map((name) => Object.assign(element("option", name), { value: name })));
    choice.setAttribute("aria-label", "Which log");
    choice.addEventListener("change", () => { log = { name: choice.value, next: 0, text: "" }; readLog(true); });
    Object.assign(follow, { type: "checkbox", id: "log-follow", checked: true });
    const label = element("label");
    label.append(follow, " follow");
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
    readLog(true);
  }

  live.openJob = async (id) => {
    shown = id;
    document.getElementById("job-title").textContent = id;
    body.replaceChildren(element("p", "reading …", "empty"));
    if (!dialog.open) dialog.showModal();
    document.getElementById("job-title").focus();
    const answer = await fetch(`/job?${new URLSearchParams({ id })}`).catch(() => null);
    if (shown !== id) return;
    if (!answer?.ok) {
      body.replaceChildren(element("p", answer ? await answer.text() : "the page’s server does not answer any more", "empty"));
      return;
    }
    fill(await answer.json());
    clearInterval(timer);
    timer = setInterval(() => !document.hidden && readLog(false), 2000);
  };
  document.getElementById("job-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => { shown = null; log = null; clearInterval(timer); });
})();
