/** The searchable table: all tokens are searched, and fifty at a time are shown. */
(async () => {
  const STEP = 50;
  const form = document.getElementById("search");
  const [wanted, sort] = [form.elements.text, form.elements.sort];
  const [found, body, more] = ["found", "rows", "more"].map((id) => document.getElementById(id));
  const data = await pageData().catch(() => null);
  if (!data) {
    found.textContent = "This browser can't unpack the table; one of 2023 or later can.";
    return;
  }
  const folded = data.tokens.map((token) => token.toLowerCase());
  const ids = data.ids.map(idsOf);
  let [matches, shown] = [[], 0];

  function idsOf(steps) {
    let last = -1;
    return Int32Array.from(steps, (step) => (step === 0 ? -1 : (last += step)));
  }

  function belongs(row) {
    const [key, at] = sort.value.split(":");
    const owners = ids.reduce((count, own) => count + (own[row] >= 0), 0);
    if (key === "shared") return owners === ids.length;
    if (key === "only") return owners === 1 && ids[at][row] >= 0;
    if (key === "lacks") return owners === ids.length - 1 && ids[at][row] < 0;
    return key === "all" || data.aliases.some((rows) => row in rows);
  }

  function matching() {
    const id = /^id:(\d+)$/.exec(wanted.value.trim());
    if (id) return (row) => allIds(row).includes(Number(id[1]));
    const text = wanted.value.toLowerCase();
    return (row) => folded[row].includes(text);
  }

  function allIds(row) {
    return ids.flatMap((own, at) => [own[row], ...(data.aliases[at][row] ?? [])]);
  }

  function search() {
    const fits = matching();
    matches = [];
    for (let row = 0; row < folded.length; row++) if (belongs(row) && fits(row)) matches.push(row);
    shown = 0;
    body.replaceChildren();
    showMore();
  }

  function showMore() {
    const rows = matches.slice(shown, shown + STEP);
    body.append(...rows.map(tableRow));
    shown += rows.length;
    const all = matches.length === 1 ? "1 token" : `${matches.length.toLocaleString("en")} tokens`;
    found.textContent = matches.length === 0 ? "no token" : shown < matches.length ? `${shown} of ${all}` : all;
    more.hidden = shown === matches.length;
  }

  function tableRow(row) {
    const cells = ids.map((own, at) => {
      const others = data.aliases[at][row] ?? [];
      return element("td", "number", own[row] < 0 ? "–" : [own[row], ...others].join(" = "));
    });
    return element("tr", "", element("td", "", showToken(data.tokens[row])), ...cells);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", search);
  more.addEventListener("click", showMore);
  search();
})();
