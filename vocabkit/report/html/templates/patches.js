/** Pictures whose patches say what they became in words. */
(async () => {
  const form = document.getElementById("controls");
  const { checkpoint: slider, layer, llm: painted } = form.elements;
  const state = document.getElementById("state");
  const data = await pageData().catch(() => null);
  if (!data) {
    state.textContent = "This browser can't decompress the data; use one from 2023 or later.";
    return;
  }
  state.hidden = true;
  const [rows, columns] = data.grid;
  const count = rows * columns;
  const views = [...document.querySelectorAll(".image")].map(view);

  const at = () => (slider ? Number(slider.value) : 0);
  const reading = (image, llm) => data.readings[image][llm][at()];
  const part = (list, patch) => list.slice((patch * list.length) / count, ((patch + 1) * list.length) / count);

  function view(section) {
    const image = Number(section.dataset.image);
    const grid = section.querySelector(".patches");
    const made = { image, grid, panel: section.querySelector(".patch"), whole: section.querySelector(".whole"),
      scale: section.querySelector(".scale") };
    Object.assign(made, patchGrid(grid, data.grid, data.telling[image], () => showPatch(made)));
    return made;
  }

  function showPatch({ image, panel, ...made }) {
    const patch = made.patch();
    const where = `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    const blocks = data.llms.map((name, llm) => {
      const found = reading(image, llm);
      const lists = [element("h4", "", "nearest, by cosine"), list(part(found.nearest, patch), part(found.cosines, patch), cosine)];
      if (found.rows) {
        const title = data.head === "softmax" ? "of the head, by share" : "of the head, by coefficient";
        lists.push(element("h4", "", title), list(part(found.rows, patch), part(found.coefficients, patch), coefficient));
      }
      return element("div", "", element("h3", "", name), ...lists);
    });
    panel.replaceChildren(element("p", "where", `Patch in ${where}`), element("div", "side", ...blocks));
  }

  function showWhole({ image, whole }) {
    const blocks = data.llms.map((name, llm) => {
      const found = reading(image, llm);
      const lists = [element("h4", "", "nearest, summed over patches"), list(found.imageNearest, found.imageCosines, cosine)];
      if (found.imageRows) lists.push(element("h4", "", "most mass of the head"), list(found.imageRows, found.imageMass, share));
      return element("div", "", element("h3", "", name), ...lists);
    });
    whole.replaceChildren(element("div", "side", ...blocks));
  }

  const cosine = (value) => [(value / 1000).toFixed(3), value / 1000];
  const share = (value) => [`${(value / 100).toFixed(value < 1000 ? 2 : 1)}%`, value / 10000];
  const coefficient = (value, values) =>
    data.head === "softmax" ? share(value) : [String(value), value / Math.max(...values.map(Math.abs), 1e-9)];

  const wordOf = (number) => data.words[number];
  const list = (words, values, shown) => wordList(words.map(wordOf), values, shown);

  function paint({ image, cells, grid, scale }) {
    const found = reading(image, painted ? Number(painted.value) : 0);
    const kind = layer.value;
    grid.dataset.layer = kind;
    const first = (list, number) => list[(number * list.length) / count];
    const best = cells.map((_, number) => first(found.cosines, number));
    const [least, most] = [Math.min(...best), Math.max(...best)];
    cells.forEach((cell, number) => {
      const words = kind === "words" ? found.nearest : kind === "rows" ? found.rows : null;
      cell.replaceChildren(...(words ? [labelOf(wordOf(first(words, number)))] : []));
      cell.classList.toggle("names", kind === "names" && Boolean(found.names?.[number]));
      cell.style.setProperty("--near", kind === "cosine" ? ((best[number] - least) / (most - least || 1)).toFixed(3) : 0);
    });
    scale.hidden = kind !== "cosine";
    [least, most].forEach((value, end) => (scale.querySelectorAll("output")[end].textContent = cosine(value)[0]));
  }

  function showAll() {
    if (slider) document.getElementById("shown").textContent = data.checkpoints[at()];
    slider?.setAttribute("aria-valuetext", data.checkpoints[at()]);
    for (const each of views) {
      showPatch(each);
      showWhole(each);
      paint(each);
    }
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", showAll);
  showAll();
})();
