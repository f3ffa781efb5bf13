// Every visible text and the contrast (WCAG 2, 1.4.3) with what is behind it; pictures count as white and as black.
() => {
  const channels = (colour) => {
    const numbers = colour.match(/[\d.]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [...numbers.slice(0, 3).map((value) => value * scale), numbers[3] ?? 1];
  };
  const over = (top, bottom) => [0, 1, 2].map((at) => top[at] * top[3] + bottom[at] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, two) => {
    const [light, dark] = [luminance(one), luminance(two)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const grounds = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      if (at.classList.contains("frame")) {
        return [[255, 255, 255, 1], [0, 0, 0, 1]].map((base) => layers.reduceRight((below, layer) => over(layer, below), base));
      }
      layers.push(channels(getComputedStyle(at).backgroundColor));
    }
    return [layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1])];
  };
  const below = [];
  let measured = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, option")) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    for (const ground of grounds(element)) {
      const found = ratio(over(channels(style.color), ground), ground);
      if (found < needed) below.push([walker.currentNode.data.trim().slice(0, 40), style.color, found.toFixed(2)]);
    }
    measured++;
  }
  return { measured, below };
}
