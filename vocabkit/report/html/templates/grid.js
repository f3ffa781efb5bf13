/** Patches of a picture that mouse, touch and arrow keys choose from. `chosen` is called with each newly chosen one. */
function patchGrid(grid, [rows, columns], patch, chosen) {
  const cells = Array.from({ length: rows * columns }, () => element("i", ""));
  grid.append(...cells);
  const show = () => cells.forEach((cell, number) => cell.classList.toggle("chosen", number === patch));
  const choose = (row, column) => {
    const next = row * columns + column;
    if (row < 0 || row >= rows || column < 0 || column >= columns || next === patch) return;
    patch = next;
    show();
    chosen(patch);
  };
  const point = (event) => {
    const box = grid.getBoundingClientRect();
    choose(Math.floor(((event.clientY - box.top) / box.height) * rows), Math.floor(((event.clientX - box.left) / box.width) * columns));
  };
  grid.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(event));
  grid.addEventListener("pointerdown", point);
  grid.addEventListener("keydown", (event) => {
    const row = Math.floor(patch / columns), column = patch % columns;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -column], End: [0, columns - 1 - column] }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(row + step[0], column + step[1]);
  });
  show();
  return { cells, patch: () => patch, choose };
}

/** Words with their values: `shown` gives the text of a value and the length of its bar, `spell` a word's element. */
function wordList(words, values, shown, spell = showWord) {
  const items = words.map((word, number) => {
    const [text, length] = shown(values[number], values);
    const bar = element("i", "length");
    bar.style.width = `${100 * Math.min(1, Math.max(0, length))}%`;
    return element("li", "", spell(word), element("span", "value", text), bar);
  });
  return element("ol", "", ...items);
}

function showWord(word) {
  return word === "" ? element("span", "quiet", "(a special token)") : showToken(word);
}

/** A word on the picture: to be read, so without the mark of the space that most words begin with. */
function labelOf(word) {
  return word.length > 1 && word[0] === " " && word[1] !== " " ? showToken(word.slice(1)) : showWord(word);
}
