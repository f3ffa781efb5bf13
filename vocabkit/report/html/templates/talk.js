/** A picture in words, and answers as they are written. */
(async () => {
  const LARGEST = 32 * 2 ** 20;
  const LEAST = 0.001; // smaller shares are noise
  const data = await pageData();
  const [rows, columns] = data.grid;
  const named = (id) => document.getElementById(id);
  const look = named("look"), told = named("told"), log = named("log"), form = named("ask"), drop = named("drop");
  const frame = look.querySelector(".frame"), image = frame.querySelector("img"), scale = look.querySelector(".scale");
  const field = form?.elements.question;
  let llms = data.llms.map((name) => ({ name, state: "waiting", seconds: 0, problem: "", facts: [], proves: false }));
  let seen = null, heat = -1, asking = null, looking = 0;

  const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 2 : 1)}%`;
  const value = (number, all) =>
    data.head === "softmax" ? [percent(number), number] : [String(number), number / Math.max(...all.map(Math.abs), 1e-9)];

  /** Ask the server; what it refuses becomes an Error with its words. */
  async function send(path, body, signal) {
    const options = body === undefined ? {} : { method: "POST", body, signal };
    const answer = await fetch(path, options).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server does not answer; is vocabkit still running?");
    });
    if (answer.ok) return answer;
    const refused = await answer.json().catch(() => ({ error: `refused (${answer.status})` }));
    throw new Error(refused.error);
  }

  // ---- the LLMs ------------------------------------------------------------------------------------------------

  async function watch() {
    try {
      llms = (await (await send("state")).json()).llms;
    } catch (error) {
      told.textContent = error.message;
      return;
    }
    const says = { waiting: () => "waiting", loading: (llm) => `loading, ${Math.round(llm.seconds)} s so far`,
      ready: (llm) => `ready, loaded in ${Math.round(llm.seconds)} s`, failed: (llm) => `not loaded: ${llm.problem}` };
    named("states").replaceChildren(...llms.map((llm) => {
      const item = element("li", llm.state, element("i", ""), element("b", "", llm.name), " ",
        element("span", llm.state === "failed" ? "bad" : "quiet", says[llm.state](llm)));
      return item;
    }));
    document.querySelectorAll("#whom label").forEach((label, number) => {
      label.lastChild.textContent = llms[number].name;
      label.firstChild.disabled = llms[number].state === "failed";
    });
    showFacts();
    allow();
    if (llms.some((llm) => llm.state === "waiting" || llm.state === "loading")) setTimeout(watch, 1000);
  }

  function showFacts() {
    named("moved").replaceChildren(...llms.filter((llm) => llm.facts.length).flatMap((llm) => {
      const facts = element("dl", "facts", ...llm.facts.flatMap(([name, fact]) => [element("dt", "", name), element("dd", "", fact)]));
      const parts = [element("h3", "", `Moved to ${llm.name}`), facts];
      if (llm.proves) {
        const proof = element("div", ""), button = element("button", "", "Prove the transfer");
        button.type = "button";
        button.addEventListener("click", () => prove(llms.indexOf(llm), button, proof));
        parts.push(button, proof);
      }
      return parts;
    }));
  }

  async function prove(number, button, place) {
    button.disabled = true;
    place.replaceChildren(element("p", "small quiet", "Comparing with the equations in float64 …"));
    try {
      const found = await (await send("proof", JSON.stringify({ llms: [number] }))).json();
      const lines = found.checks.map((check) => {
        const good = check.error !== null && check.error <= check.limit;
        return element("li", "", `${check.name}, ${check.patches} patches: relative error ${check.error?.toExponential(1)}, limit ${check.limit.toExponential(0)} `,
          element("span", good ? "good" : "bad", good ? "✓ within" : "✗ beyond"));
      });
      const problems = found.problems.map((problem) => element("li", "bad", problem));
      const verdict = found.passed ? `${found.rows.toLocaleString("en")} rows proven` : "not proven";
      place.replaceChildren(element("p", found.passed ? "good" : "bad", verdict), element("ul", "plain small", ...lines, ...problems));
    } catch (error) {
      place.replaceChildren(element("p", "bad", error.message));
    }
    button.disabled = false;
  }

  // ---- the picture ---------------------------------------------------------------------------------------------

  const view = patchGrid(look.querySelector(".patches"), data.grid, 0, showPatch);

  async function give(file) {
    if (!file) return;
    const turn = ++looking;
    told.className = "quiet";
    told.textContent = "Looking at the picture …";
    try {
      if (file.size > LARGEST) throw new Error("The file is larger than 32 MB; save the picture smaller.");
      const found = await (await send("picture", file)).json();
      if (turn !== looking) return;
      told.textContent = "";
      show(found);
    } catch (error) {
      if (turn !== looking) return;
      told.className = "bad";
      told.textContent = error.message;
    }
  }

  function show(found) {
    seen = { ...found, mapped: found.mapped.filter(([, mass]) => mass >= LEAST) };
    heat = -1;
    const said = new Set(found.words);
    const telling = found.patches.map(([[word], [value]]) => (said.has(word.trim()) ? 1 + value : value));
    const first = telling.indexOf(Math.max(...telling));
    const place = (part, [left, top, width, height]) =>
      Object.assign(part.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    frame.style.aspectRatio = found.frame.ratio;
    image.src = found.picture;
    place(image, found.frame.picture);
    place(look.querySelector(".patches"), found.frame.grid);
    named("mapped")?.replaceChildren(...seen.mapped.map(([word, mass], number) => {
      const button = element("button", "", labelOf(word), element("span", "", percent(mass)));
      button.type = "button";
      button.addEventListener("click", () => { heat = heat === number ? -1 : number; paint(); });
      return element("li", "", button);
    }));
    if (named("reads")) named("reads").textContent = found.words.length ? `As text: ${found.words.join(", ")}` : "";
    named("give").classList.add("seen");
    drop.firstChild.textContent = "Another picture";
    look.hidden = false;
    paint();
    view.choose(Math.floor(first / columns), first % columns);
    showPatch();
    allow();
  }

  function paint() {
    document.querySelectorAll("#mapped button").forEach((button, number) => button.setAttribute("aria-pressed", number === heat));
    const shares = heat < 0 ? null : seen.mapped[heat][2];
    const most = shares && Math.max(...shares, 1e-9);
    view.cells.forEach((cell, number) => {
      cell.replaceChildren(...(shares || columns > 12 ? [] : [labelOf(seen.patches[number][0][0])]));
      cell.style.setProperty("--near", shares ? (shares[number] / most).toFixed(3) : 0);
    });
    scale.hidden = !shares;
    if (shares) {
      scale.firstChild.replaceChildren("share of ", labelOf(seen.mapped[heat][0]));
      scale.querySelector("output").textContent = percent(most);
    }
  }

  function showPatch() {
    const patch = view.patch();
    const [words, values] = seen.patches[patch].map((list, _, [, all]) => list.filter((_, rank) => !rank || data.head !== "softmax" || all[rank] >= LEAST));
    const where = `Patch in row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    look.querySelector(".patch").replaceChildren(element("p", "where", where), element("div", "side", wordList(words, values, value, labelOf)));
  }

  named("file").addEventListener("change", (event) => {
    give(event.target.files[0]);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) {
      event.preventDefault();
      give(file);
    }
  });
  named("draw")?.addEventListener("click", async () => {
    const button = named("draw");
    button.disabled = true;
    try {
      await give(await (await send("drawing", "")).blob());
    } catch (error) {
      told.className = "bad";
      told.textContent = error.message;
    }
    button.disabled = false;
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") give(event.dataTransfer.files[0]);
    });
  }

  // ---- questions and answers -----------------------------------------------------------------------------------

  function chosen() {
    const boxes = [...document.querySelectorAll("#whom input")];
    return llms.flatMap((llm, number) => (llm.state === "ready" && (boxes[number]?.checked ?? true) ? [number] : []));
  }

  function allow() {
    if (!form) return;
    const can = Boolean(seen) && chosen().length > 0 && !asking;
    form.elements.send.disabled = !can || !field.value.trim();
    form.elements.own.disabled = !can;
    const loading = llms.some((llm) => llm.state === "waiting" || llm.state === "loading");
    named("hint").textContent = asking ? "" : !seen ? "First, a picture." : can ? "" :
      loading ? "The LLM is still loading." : llms.every((llm) => llm.state === "failed") ? "No LLM could be loaded." : "Choose an LLM.";
  }

  async function ask(question) {
    if (asking || !seen || !chosen().length) return;
    asking = new AbortController();
    allow();
    const numbers = chosen();
    const stop = element("button", "", "Stop");
    stop.type = "button";
    stop.addEventListener("click", () => asking?.abort());
    const title = question ? element("h3", "", question) : element("h3", "own", "The adapter's own prompt");
    const places = new Map(numbers.map((number) => {
      const answer = element("p", "answer"), more = element("div", "");
      return [number, { answer, more, whole: element("div", "", element("h4", "", llms[number].name), answer, more) }];
    }));
    const picture = element("img", "");
    picture.src = seen.picture;
    picture.alt = "";
    const turn = element("article", "turn", picture,
      element("div", "", element("header", "", title, stop), element("div", "answers", ...[...places.values()].map(({ whole }) => whole))));
    log.prepend(turn);
    turn.setAttribute("aria-busy", "true");
    places.get(numbers[0]).more.replaceChildren(element("p", "small quiet", "reads the picture …"));
    const problem = (text) => {
      for (const { answer, more } of places.values()) {
        answer.classList.remove("writing");
        if (!more.querySelector("details")) more.replaceChildren(element("p", "small bad", text));
      }
    };
    try {
      const body = JSON.stringify({ picture: seen.key, question, llms: numbers });
      const answer = await send("answers", body, asking.signal);
      for await (const said of lines(answer.body)) hear(said, places);
    } catch (error) {
      problem(error.name === "AbortError" ? "stopped" : error.message || "the answer broke off");
    }
    stop.remove();
    turn.removeAttribute("aria-busy");
    asking = null;
    allow();
  }

  /** What the server tells while answers are written. */
  function hear(said, places) {
    const place = places.get(said.llm);
    if (!place) {
      if (said.ahead) [...places.values()][0].more.replaceChildren(element("p", "small quiet", `waits for ${said.ahead} other${said.ahead > 1 ? "s" : ""} …`));
      return;
    }
    const { answer, more } = place;
    answer.classList.toggle("writing", !said.cost && !said.error);
    if (said.text !== undefined) answer.textContent = said.text;
    if (said.text === "" && !said.cost) more.replaceChildren(element("p", "small quiet", "reads the picture …"));
    else if (!said.cost && !said.error) more.replaceChildren();
    if (said.error) more.replaceChildren(element("p", "small bad", said.error));
    if (said.cost) {
      if (!said.text) answer.append(element("span", "quiet", "(nothing)"));
      const { first, seconds, tokens, visual_tokens: visual } = said.cost;
      const rate = tokens > 1 && seconds > first ? `, then ${((tokens - 1) / (seconds - first)).toFixed(1)} tokens/s` : "";
      more.replaceChildren(
        element("p", "small quiet", `${visual} visual tokens; first word after ${first.toFixed(1)} s${rate}`),
        element("details", "", element("summary", "", "The prompt as it was read"), element("pre", "", said.prompt.replaceAll("<image>", `[${visual} visual tokens]`))),
      );
    }
  }

  /** The JSON values of a stream with one in each line. */
  async function* lines(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value: part, done } = await reader.read();
      if (done) return;
      const parts = (rest + part).split("\n");
      rest = parts.pop();
      for (const line of parts) yield JSON.parse(line);
    }
  }

  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = field.value.trim();
    if (!question || form.elements.send.disabled) return;
    field.value = "";
    ask(question);
  });
  form?.elements.own.addEventListener("click", () => ask(""));
  form?.addEventListener("input", allow);
  named("whom")?.addEventListener("input", allow);
  field?.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });

  watch();
})();
