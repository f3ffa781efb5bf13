/** The searchable table: all tokens are searched, and fifty at a time are shown. */
(async () => {
  const STEP = 50;
  const form = document.getElementById("search");
  const [wanted, filter, order] = ["text", "filter", "order"].map((name) => form.elements[name]);
  const [found, body, more, download] = ["found", "rows", "more", "download"].map((id) => document.getElementById(id));
  const data = await pageData().catch(() => null);
  if (!data) {
    found.textContent = "This browser can't decompress the table; use one from 2023 or later.";
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
    const [key, at] = filter.value.split(":");
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
    const { tokens } = data;
    if (order.value === "length") matches.sort((a, b) => tokens[b].length - tokens[a].length || a - b);
    else if (order.value === "text") matches.sort((a, b) => (tokens[a] < tokens[b] ? -1 : 1));
    else matches.sort((a, b) => place(a) - place(b) || a - b);
    shown = 0;
    body.replaceChildren();
    showMore();
  }

  /** The sort position of a row by its id in the chosen tokenizer; rows without an id come last. */
  function place(row) {
    const id = ids[Number(order.value)][row];
    return id < 0 ? Infinity : id;
  }

  /** The rows found, as RFC 4180 has it: tokens as they are spelled here, and all ids of each tokenizer. */
  function saveCsv() {
    const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
    const lines = matches.map((row) => {
      const cells = ids.map((own, at) => (own[row] < 0 ? "" : [own[row], ...(data.aliases[at][row] ?? [])].join(" ")));
      return [quoted(data.tokens[row]), ...cells].join(",");
    });
    const text = [["token", ...data.names.map(quoted)].join(","), ...lines, ""].join("\r\n");
    const link = element("a", "");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "tokens.csv";
    link.click();
    URL.revokeObjectURL(link.href);
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
      const pieces = data.pieces[at][row];
      if (own[row] < 0 && pieces) return element("td", "number spelled", ...pieces.flatMap((each) => [showToken(each), " "]));
      return element("td", "number", own[row] < 0 ? "–" : [own[row], ...others].join(" = "));
    });
    return element("tr", "", element("td", "", showToken(data.tokens[row])), ...cells);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", search);
  more.addEventListener("click", showMore);
  download.addEventListener("click", saveCsv);
  download.hidden = false;
  search();
})();
