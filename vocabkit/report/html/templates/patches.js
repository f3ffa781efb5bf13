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
    const cells = Array.from({ length: count }, () => element("i", ""));
    grid.append(...cells);
    const made = { image, grid, cells, patch: data.telling[image],
      panel: section.querySelector(".patch"), whole: section.querySelector(".whole"),
      scale: section.querySelector(".scale") };
    const point = (event) => {
      const box = grid.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
      if (row >= 0 && row < rows && column >= 0 && column < columns) choose(made, row * columns + column);
    };
    grid.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(event));
    grid.addEventListener("pointerdown", point);
    grid.addEventListener("keydown", (event) => {
      const row = Math.floor(made.patch / columns), column = made.patch % columns;
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
        Home: [0, -column], End: [0, columns - 1 - column] }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const next = [row + step[0], column + step[1]];
      if (next[0] >= 0 && next[0] < rows && next[1] >= 0 && next[1] < columns) choose(made, next[0] * columns + next[1]);
    });
    return made;
  }

  function choose(view, patch) {
    if (patch === view.patch) return;
    view.patch = patch;
    showPatch(view);
  }

  function showPatch({ image, cells, patch, panel }) {
    cells.forEach((cell, number) => cell.classList.toggle("chosen", number === patch));
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

  function list(words, values, shown) {
    const items = words.map((word, number) => {
      const [text, length] = shown(values[number], values);
      const bar = element("i", "length");
      bar.style.width = `${100 * Math.min(1, Math.max(0, length))}%`;
      return element("li", "", wordOf(word), element("span", "value", text), bar);
    });
    return element("ol", "", ...items);
  }

  function wordOf(number) {
    return data.words[number] === "" ? element("span", "quiet", "(a special token)") : showToken(data.words[number]);
  }

  /** A word on the picture: to be read, so without the mark of the space that most words begin with. */
  function labelOf(number) {
    const word = data.words[number];
    return word.length > 1 && word[0] === " " && word[1] !== " " ? showToken(word.slice(1)) : wordOf(number);
  }

  function paint({ image, cells, grid, scale }) {
    const found = reading(image, painted ? Number(painted.value) : 0);
    const kind = layer.value;
    grid.dataset.layer = kind;
    const first = (list, number) => list[(number * list.length) / count];
    const best = cells.map((_, number) => first(found.cosines, number));
    const [least, most] = [Math.min(...best), Math.max(...best)];
    cells.forEach((cell, number) => {
      const words = kind === "words" ? found.nearest : kind === "rows" ? found.rows : null;
      cell.replaceChildren(...(words ? [labelOf(first(words, number))] : []));
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
