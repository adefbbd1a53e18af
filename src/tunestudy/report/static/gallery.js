// Filters the samples of report/gallery.html. Every sample is in the page already; this only hides.
"use strict";
(() => {
  const form = document.getElementById("filters");
  const cards = [...document.querySelectorAll(".card")].map((node) => ({
    node,
    categories: node.dataset.categories.split(" "),
    answers: [...node.querySelectorAll(".answers li")],
  }));

  const wanted = () => Object.fromEntries(new FormData(form));
  const fits = (asked, has) => asked === "" || asked === has;

  // Categories of other benchmarks cannot be chosen.
  function offer(benchmark) {
    const select = form.elements.category;
    for (const option of select.options) {
      const of = option.dataset.benchmarks;
      option.hidden = of !== undefined && benchmark !== "" && !of.split(" ").includes(benchmark);
      if (option.hidden && option.selected) select.value = "";
    }
  }

  function apply() {
    offer(form.elements.benchmark.value);
    const want = wanted();
    let shown = 0;
    for (const { node, categories, answers } of cards) {
      let left = 0;
      for (const answer of answers) {
        const { variant, verdict, change } = answer.dataset;
        answer.hidden = !(fits(want.variant, variant) && fits(want.verdict, verdict) && fits(want.change, change));
        left += !answer.hidden;
      }
      const here = fits(want.benchmark, node.dataset.benchmark) && (want.category === "" || categories.includes(want.category));
      node.hidden = !(here && left);
      shown += !node.hidden;
    }
    document.getElementById("shown").textContent = `${shown} of ${cards.length} samples`;
    document.getElementById("none").hidden = shown > 0;
  }

  // A link to a sample that is hidden shows it: the filters give way.
  function reveal() {
    const node = document.getElementById(location.hash.slice(1));
    if (!node?.classList.contains("card")) return;
    const hidden = node.hidden || node.querySelector(".answers li[hidden]");
    if (hidden) {
      for (const select of form.querySelectorAll("select")) select.value = "";
      form.elements.benchmark.value = node.dataset.benchmark;
      apply();
    }
    node.scrollIntoView();
  }

  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", reveal);
  form.hidden = false;
  apply();
  reveal();
})();
