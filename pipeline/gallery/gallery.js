// The gallery of a store. data/store.js calls gallery.store(...) with a few bytes about every row, which is what filters
// and sorts look at; what else is known of 256 rows comes with data/rows-*.js, loaded as a script when one of them is
// shown, because a page opened from a file may load nothing else. Of very many rows it brings their pictures too, and few
// such scripts are kept. All of it is shown as text, never as HTML.
"use strict";

const gallery = (() => {
  const PAGE_ROWS = 24;
  const PACKED_KEPT = 32; // scripts with pictures, of some 4 MB: more than a page's rows can lie in
  const BINS = 20;
  const WHOLE = 65535; // a fraction of 1 in its column
  const TITLES = { image: "Image", saliency: "Soft map", mask: "Mask", background: "Background" };
  const ALTERNATIVES = {
    image: "image",
    saliency: "soft map, white is foreground",
    mask: "foreground outlined, the rest darkened",
    background: "background with the foreground covered",
  };
  const SORTS = {
    doubt: ["likely wrong, first", (place) => WHOLE - columns.doubt[place]],
    row: ["row number", () => null],
    small: ["foreground, least first", (place) => columns.fraction[place]],
    large: ["foreground, most first", (place) => WHOLE - columns.fraction[place]],
    class: ["class", (place) => columns.class[place]],
    shuffled: ["nothing: shuffled", (place) => (Math.imul(place + 1, 2654435761) >>> 16)],
  };

  let facts; // what gallery.store was given
  let columns; // row, status, class, fraction, doubt: typed arrays, one entry for each row on the page
  let ranks; // of packed rows, by place: where among all, the most doubtful first, a row lies in the scripts
  let kinds; // pictures that some row has
  let order; // Uint32Array: the rows that pass the filters, as places in the columns, sorted
  let state;
  let marks = new Map(); // rows marked as bad: row -> key
  let lastTicket = 0;
  const chunks = new Map();
  const byId = (id) => document.getElementById(id);
  const isPhone = matchMedia("(max-width: 60rem)");

  // ---------------------------------------------------------------------------------------------------- elements

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function tableRows(pairs) {
    return pairs.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, String(value))));
  }

  const grouped = (number) => number.toLocaleString("en");
  const plural = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;

  function percent(fraction) {
    const value = 100 * fraction;
    return `${value === 0 || value >= 9.95 ? value.toFixed(0) : value >= 0.095 ? value.toFixed(1) : value.toPrecision(1)} %`;
  }

  // -------------------------------------------------------------------------------------------------------- data

  function unpacked({ type, data }) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    return new { Uint8Array, Uint16Array, Uint32Array }[type](bytes.buffer);
  }

  function chunk(number) {
    if (chunks.has(number)) {
      const entry = chunks.get(number); // to the end of those that are kept
      chunks.delete(number);
      chunks.set(number, entry);
    } else {
      if (facts.isPacked && chunks.size >= PACKED_KEPT) chunks.delete(chunks.keys().next().value);
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      chunks.set(number, entry);
      const script = element("script", { src: `data/rows-${String(number).padStart(5, "0")}.js` });
      script.onload = () => script.remove();
      script.onerror = () => {
        chunks.delete(number);
        entry.reject(new Error(`${script.getAttribute("src")} could not be loaded`));
      };
      document.head.append(script);
    }
    return chunks.get(number).promise;
  }

  // All that is known of a row, by its place in the columns.
  async function details(place) {
    const at = ranks ? ranks[place] : place;
    const rows = await chunk(Math.floor(at / facts.chunkRows));
    return { place, row: columns.row[place], status: statusOf(place), ...rows[at % facts.chunkRows] };
  }

  const statusOf = (place) => facts.statuses.find(({ code }) => code === columns.status[place]);
  const hasMask = (place) => columns.status[place] <= 2;

  // ------------------------------------------------------------------------------------------- filters and order

  const unfiltered = () => ({
    statuses: new Set(facts.statuses.map(({ code }) => code)),
    class: -1, from: 0, to: 100, onlyMarked: false, sort: "doubt", page: 0, row: -1,
  });

  // A test of one row. Filters that let everything pass are left out, for a million rows are tested at every change.
  function passes({ withFraction }) {
    const tests = [];
    if (state.statuses.size < facts.statuses.length) tests.push((place) => state.statuses.has(columns.status[place]));
    if (state.class >= 0) tests.push((place) => columns.class[place] === state.class);
    if (state.onlyMarked) tests.push((place) => marks.has(columns.row[place]));
    if (withFraction && (state.from > 0 || state.to < 100)) {
      // A tenth of a column's step of grace, so that "to 8" takes in what reads as 8 %.
      const low = (state.from / 100) * WHOLE - 0.1, high = (state.to / 100) * WHOLE + 0.1;
      tests.push((place) => hasMask(place) && columns.fraction[place] >= low && columns.fraction[place] <= high);
    }
    return (place) => tests.every((test) => test(place));
  }

  function filtered() {
    const isShown = passes({ withFraction: true });
    const places = new Uint32Array(columns.row.length);
    let count = 0;
    for (let place = 0; place < places.length; place++) if (isShown(place)) places[count++] = place;
    return places.subarray(0, count);
  }

  // A counting sort: linear, and stable, so that equals stay in row order. Keys are whole numbers below 2 ** 16.
  function sorted(places, key) {
    if (key(0) === null) return places;
    const starts = new Uint32Array(WHOLE + 2);
    for (const place of places) starts[key(place) + 1]++;
    for (let value = 1; value < starts.length; value++) starts[value] += starts[value - 1];
    const result = new Uint32Array(places.length);
    for (const place of places) result[starts[key(place)]++] = place;
    return result;
  }

  const numPages = () => Math.max(1, Math.ceil(order.length / PAGE_ROWS));

  // Filters, order, page and open row stand in the address, so that what one sees can be sent to somebody, or bookmarked.
  function toAddress() {
    const plain = unfiltered();
    const words = new URLSearchParams();
    if (state.statuses.size < plain.statuses.size) {
      words.set("status", facts.statuses.filter(({ code }) => state.statuses.has(code)).map(({ label }) => label).join(","));
    }
    if (state.class >= 0) words.set("class", facts.classes[state.class]);
    for (const name of ["from", "to", "sort"]) if (state[name] !== plain[name]) words.set(name, state[name]);
    if (state.onlyMarked) words.set("marked", "only");
    if (state.page > 0) words.set("page", state.page + 1);
    if (state.row >= 0) words.set("row", columns.row[state.row]);
    history.replaceState(null, "", `#${words}`);
  }

  function fromAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    const plain = unfiltered();
    const number = (name, least, most, otherwise) => {
      const value = words.has(name) ? Number(words.get(name)) : NaN;
      return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : otherwise;
    };
    const labels = words.has("status") ? words.get("status").split(",") : null;
    return {
      statuses: labels ? new Set(facts.statuses.filter(({ label }) => labels.includes(label)).map(({ code }) => code)) : plain.statuses,
      class: words.has("class") ? facts.classes.indexOf(words.get("class")) : -1,
      from: number("from", 0, 100, 0),
      to: number("to", 0, 100, 100),
      onlyMarked: words.get("marked") === "only",
      sort: Object.hasOwn(SORTS, words.get("sort")) ? words.get("sort") : plain.sort,
      page: Math.round(number("page", 1, 2 ** 31, 1)) - 1,
      row: words.has("row") ? columns.row.indexOf(Number(words.get("row"))) : -1,
    };
  }

  // --------------------------------------------------------------------------------------------------- histogram

  // Rows with a mask by foreground: all of them pale, those that pass the other filters in colour.
  function showHistogram() {
    const bin = (place) => Math.min(BINS - 1, Math.floor((columns.fraction[place] / WHOLE) * BINS));
    const isShown = passes({ withFraction: false });
    const all = new Uint32Array(BINS), shown = new Uint32Array(BINS);
    const values = [];
    for (let place = 0; place < columns.row.length; place++) {
      if (!hasMask(place)) continue;
      all[bin(place)]++;
      if (isShown(place)) { shown[bin(place)]++; values.push(columns.fraction[place]); }
    }
    const most = Math.max(1, ...all);
    const [left, bottom, width, height] = [4, 90, 292, 84];
    const step = width / BINS;
    const bars = Array.from(all, (count, i) => {
      const range = `${(100 * i) / BINS} to ${(100 * (i + 1)) / BINS} %`;
      const group = drawn("g", {});
      // A bar of one row among thousands is still to be seen.
      const bar = (name, value) => {
        const tall = value ? Math.max(1.5, (height * value) / most) : 0;
        return drawn("rect", { class: name, x: left + i * step + 0.75, width: step - 1.5, y: bottom - tall, height: tall });
      };
      group.append(drawn("title", {}, `${range}: ${grouped(shown[i])} of ${plural(count, "row")}. Click to see only these.`));
      group.append(drawn("rect", { class: "hit", x: left + i * step, width: step, y: bottom - height, height }));
      group.append(bar("all", count), bar("shown", shown[i]));
      group.addEventListener("click", () => change({ from: (100 * i) / BINS, to: (100 * (i + 1)) / BINS }));
      return group;
    });
    const ticks = [[0, "0", "start"], [25, "25", "middle"], [50, "50", "middle"], [75, "75", "middle"], [100, "100 %", "end"]]
      .map(([at, text, anchor]) => drawn("text", { x: left + (width * at) / 100, y: 105, "text-anchor": anchor }, text));
    const axis = drawn("line", { x1: left, x2: left + width, y1: bottom, y2: bottom });
    byId("histogram").replaceChildren(...bars, axis, ...ticks);
    values.sort((a, b) => a - b);
    const middle = values.length ? percent(values[values.length >> 1] / WHOLE) : "";
    const text = values.length ? `${plural(values.length, "row")} with a mask, half of them below ${middle}` : "no row with a mask";
    byId("histogram-text").textContent = `${text}. Tallest bar: ${plural(most, "row")}.`;
    byId("histogram").setAttribute("aria-label", `Histogram of the foreground fraction: ${text}`);
  }

  // ---------------------------------------------------------------------------------------------------- the rows

  function picture(row, kind, tag) {
    const why = row.whyNot[kind];
    const folder = Math.floor(row.row / facts.picturesPerFolder);
    const shown = why ? element("span", { class: "none" }, why) : element("img", {
      src: row.pictures ? `data:image/jpeg;base64,${row.pictures[kind]}` : `pictures/${folder}/${row.row}-${kind}.jpg`, alt: `row ${row.row}: ${ALTERNATIVES[kind]}`,
      width: 256, height: 256, loading: "lazy", decoding: "async",
    });
    return element(tag, { class: "picture" }, shown, element("span", { class: "caption" }, TITLES[kind]));
  }

  function card(row) {
    const share = row.status.code <= 2 ? `${percent(row.fraction)} foreground` : "";
    const name = [`Row ${row.row}`, row.key, row.status.label, share, ...row.doubts].filter(Boolean).join(", ");
    const button = element("button", { class: "row", type: "button", "aria-label": name, "data-place": row.place });
    showMark(button, row.row);
    const head = element("span", { class: "head" }, element("span", { class: "key" }, row.key));
    if (row.status.code !== 0) head.append(element("span", { class: "bad" }, row.status.label));
    head.append(element("span", { class: "marked" }, "marked bad"));
    head.append(element("span", { class: "n" }, share || `row ${row.row}`));
    if (row.doubts.length) head.append(element("span", { class: "doubts" }, row.doubts.join(", ")));
    button.append(head, element("span", { class: "strip" }, ...kinds.map((kind) => picture(row, kind, "span"))));
    button.addEventListener("click", () => openRow(row.place));
    return element("li", {}, button);
  }

  const cards = () => [...byId("rows").querySelectorAll("button.row")];

  async function showPage(focusAt = null) {
    const ticket = ++lastTicket;
    state.page = Math.min(state.page, numPages() - 1);
    const places = [...order.subarray(state.page * PAGE_ROWS, (state.page + 1) * PAGE_ROWS)];
    let items;
    try {
      items = (await Promise.all(places.map(details))).map(card);
    } catch (error) {
      items = [element("li", {}, element("p", { class: "notice" }, `${error.message}. Is the folder whole, or the server still there?`))];
    }
    if (ticket !== lastTicket) return; // another page was asked for meanwhile
    if (!items.length) items = [element("li", {}, element("p", {}, "No row passes these filters."))];
    // Whoever went on to another control while rows were loaded keeps it.
    const mayFocus = document.activeElement === document.body || byId("rows").contains(document.activeElement);
    byId("rows").replaceChildren(...items);
    const first = state.page * PAGE_ROWS + 1;
    byId("count").textContent = order.length
      ? `${grouped(first)} to ${grouped(first + places.length - 1)} of ${plural(order.length, "row")}, page ${grouped(state.page + 1)} of ${grouped(numPages())}`
      : `0 of ${plural(columns.row.length, "row")}`;
    for (const suffix of ["", "-below"]) {
      byId(`previous${suffix}`).disabled = state.page === 0;
      byId(`next${suffix}`).disabled = state.page >= numPages() - 1;
    }
    if (focusAt !== null && mayFocus) cards().at(focusAt)?.focus();
    document.documentElement.dataset.ready = ticket; // for those who wait for the page, such as its tests
  }

  // Apply a change of filters or order, and go to the first page.
  function change(changes) {
    Object.assign(state, changes, { page: 0 });
    refresh();
  }

  function refresh(focusAt = null) {
    order = sorted(filtered(), SORTS[state.sort][1]);
    for (const box of byId("statuses").querySelectorAll("input")) box.checked = state.statuses.has(Number(box.value));
    byId("class").value = state.class;
    byId("sort").value = state.sort;
    byId("only-marked").checked = state.onlyMarked;
    byId("from").value = state.from;
    byId("to").value = state.to;
    showHistogram();
    toAddress();
    return showPage(focusAt);
  }

  function turn(by, focusAt = null) {
    const page = state.page + by;
    if (page < 0 || page >= numPages()) return;
    state.page = page;
    toAddress();
    showPage(focusAt);
    document.querySelector("main").scrollIntoView({ block: "start" });
  }

  // ------------------------------------------------------------------------------------------------ one open row

  async function openRow(place) {
    state.row = place;
    toAddress();
    let row;
    try {
      row = await details(place);
    } catch (error) {
      byId("find-answer").textContent = error.message;
      return;
    }
    if (state.row !== place) return;
    const [height, width] = row.size;
    const [top, left, boxHeight, boxWidth] = row.box;
    byId("row-title").textContent = row.key;
    byId("row-pictures").replaceChildren(...kinds.map((kind) => picture(row, kind, "div")));
    byId("row-facts").replaceChildren(...tableRows([
      ["row", row.row],
      ["status", `${row.status.label}: ${row.message || row.status.meaning}`],
      ["why it may be wrong", row.doubts.join(", ") || "nothing that the store knows speaks against it"],
      ["class", facts.classes[columns.class[place]] + (row.label < 0 ? "" : `, number ${row.label}`)],
      ["image", height ? `${width} x ${height} px, ${plural(row.bytes, "byte")}` : plural(row.bytes, "byte")],
      ["foreground", row.status.code <= 2 ? percent(row.fraction) : "unknown: no mask"],
      ["box of the foreground", boxHeight ? `${boxWidth} x ${boxHeight} px, ${left} from the left, ${top} from the top` : "none"],
      ["SHA-256 of the image file", row.sha256],
    ]));
    showMark(byId("row-mark"), row.row);
    byId("row-previous").disabled = beside(-1) === null;
    byId("row-next").disabled = beside(1) === null;
    if (!byId("row").open) byId("row").showModal();
  }

  // The row before or after the open one, as filtered and sorted.
  function beside(by) {
    const at = order.indexOf(state.row);
    return at < 0 || at + by < 0 || at + by >= order.length ? null : order[at + by];
  }

  function step(by) {
    const place = beside(by);
    if (place !== null) openRow(place);
  }

  // Go on from the row that was looked at last, which may lie on another page than the first.
  function rowClosed() {
    const at = order.indexOf(state.row);
    const page = at < 0 ? state.page : Math.floor(at / PAGE_ROWS);
    const isSame = page === state.page;
    Object.assign(state, { page, row: -1 });
    toAddress();
    if (!isSame) showPage(at % PAGE_ROWS);
    else if (at >= 0 && byId("rows").contains(document.activeElement)) cards()[at % PAGE_ROWS]?.focus();
  }

  // ----------------------------------------------------------------------------------------------------- bad rows

  // Marks lie in this browser, by the store's id; another tab may have made some since.
  const marksName = () => `backdrop bad rows of ${facts.storeId ?? `${facts.dataset} ${facts.split}, half built`}`;

  function readMarks() {
    try {
      marks = new Map(JSON.parse(localStorage.getItem(marksName()) ?? "[]"));
    } catch {
      // A browser that keeps nothing for pages of files: marks last as long as the page does.
    }
  }

  async function toggleMark(place) {
    const { row, key } = await details(place);
    readMarks();
    if (!marks.delete(row)) marks.set(row, key);
    let kept = true;
    try {
      localStorage.setItem(marksName(), JSON.stringify([...marks]));
    } catch {
      kept = false;
    }
    const button = cards().find((card) => Number(card.dataset.place) === place);
    if (button) showMark(button, row);
    if (state.row === place) showMark(byId("row-mark"), row);
    showMarks(kept ? "" : " This browser keeps none: download the list before you close the page.");
  }

  function showMark(button, row) {
    button.classList.toggle("is-marked", marks.has(row));
    if (button.matches(".row")) button.setAttribute("aria-description", marks.has(row) ? "marked as bad" : "");
    else button.setAttribute("aria-pressed", marks.has(row));
  }

  function showMarks(note = "") {
    byId("marks-text").textContent = (marks.size ? `${plural(marks.size, "row")} marked as bad.` : "None is marked.") + note;
    for (const name of ["marks-download", "marks-copy"]) byId(name).disabled = !marks.size;
    byId("only-marked").disabled = !marks.size && !state.onlyMarked;
  }

  // A key a line, in the order of rows; one that no line can hold is written as JSON.
  function markedKeys() {
    const written = (key) => (/^"|[\u0000-\u001f]|\p{Surrogate}/u.test(key) ? JSON.stringify(key) : key);
    return [...marks].sort(([a], [b]) => a - b).map(([, key]) => `${written(key)}\n`).join("");
  }

  function download() {
    const url = URL.createObjectURL(new Blob([markedKeys()], { type: "text/plain" }));
    element("a", { href: url, download: "bad-rows.txt" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(markedKeys());
      showMarks(" Copied.");
    } catch {
      showMarks(" This browser lets no page copy: download the list.");
    }
  }

  // --------------------------------------------------------------------------------------------------- find a row

  // Rows lie in the order of their keys' code points; JavaScript's own comparison is by halves of surrogate pairs.
  function isBefore(a, b) {
    const [x, y] = [[...a], [...b]];
    const at = x.findIndex((character, i) => character !== y[i]);
    return at < 0 ? x.length < y.length : y[at] !== undefined && x[at].codePointAt(0) < y[at].codePointAt(0);
  }

  async function find(text) {
    // Digits with zeros before them are no row: COCO's keys begin so.
    if (/^(0|[1-9]\d*)$/.test(text)) {
      const place = columns.row.indexOf(Number(text));
      return place >= 0 ? { place } : { answer: `row ${text} is not on this page` };
    }
    let [low, high] = [0, columns.row.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isBefore((await details(middle)).key, text)) low = middle + 1;
      else high = middle;
    }
    const found = low < columns.row.length ? await details(low) : null;
    return found?.key.startsWith(text) ? { place: low } : { answer: `no key on this page begins with "${text}"` };
  }

  async function submitFind(event) {
    event.preventDefault();
    const text = byId("find").value.trim();
    if (!text) return;
    try {
      const { place, answer = "" } = await find(text);
      byId("find-answer").textContent = answer;
      if (place !== undefined) openRow(place);
    } catch (error) {
      byId("find-answer").textContent = error.message;
    }
  }

  // ----------------------------------------------------------------------------------------------------- keyboard

  // How many rows stand beside one another now.
  function numColumns() {
    const tops = cards().map((button) => button.getBoundingClientRect().top);
    return tops.filter((top) => Math.abs(top - tops[0]) < 2).length;
  }

  function moveFocus(by) {
    const all = cards();
    const at = all.indexOf(document.activeElement);
    if (at < 0) return all[0]?.focus();
    if (all[at + by]) return all[at + by].focus();
    return turn(Math.sign(by), by > 0 ? 0 : -1);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const inDialog = byId("row").open;
    const keys = inDialog
      ? { ArrowLeft: () => step(-1), ArrowRight: () => step(1), p: () => step(-1), n: () => step(1), b: () => toggleMark(state.row) }
      : {
        ArrowLeft: () => moveFocus(-1), ArrowRight: () => moveFocus(1),
        // Up and down scroll, until a row has the focus.
        ...(event.target.closest(".row")
          ? {
            ArrowUp: () => moveFocus(-numColumns()), ArrowDown: () => moveFocus(numColumns()),
            b: () => toggleMark(Number(event.target.closest(".row").dataset.place)),
          }
          : {}),
        n: () => turn(1, 0), p: () => turn(-1, 0),
        "/": () => { byId("tools").open = true; byId("find").select(); },
      };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }

  // ---------------------------------------------------------------------------------------------------- beginning

  function flat(value, path = []) {
    const isNested = value !== null && typeof value === "object" && !Array.isArray(value);
    return isNested ? Object.entries(value).flatMap(([name, inner]) => flat(inner, [...path, name])) : [[path.join("."), value]];
  }

  function showProvenance() {
    const { identity } = facts;
    const threshold = identity.mask?.threshold ?? identity.threshold;
    const detector = identity.detector ?? {};
    const isWhole = facts.storeId !== null;
    document.title = `${facts.dataset} ${facts.split}: foregrounds`;
    byId("title").textContent = `Foregrounds of ${facts.dataset}, ${facts.split}`;
    const all = columns.row.length === facts.numBuilt;
    const onPage = all ? "" : ` This page shows ${grouped(columns.row.length)} of them, spread evenly but for up to a quarter of them that are the likeliest to be wrong, and for rare statuses.`;
    const doubted = columns.doubt.reduce((count, doubt) => count + (doubt > 0), 0);
    const first = doubted
      ? ` Those whose masks are likely wrong come first: ${grouped(doubted)} are doubted.`
      : " By rules of thumb no mask here is doubted: look for yourself.";
    byId("summary").textContent =
      `A store of masks and backgrounds of ${plural(facts.numRows, "image")}, made with the detector "${detector.name ?? "unknown"}".${onPage}${first}`;
    if (threshold !== undefined) byId("about-mask").textContent = `What is more salient than ${threshold}: foreground is outlined, the rest darkened.`;
    const notices = [
      isWhole ? "" : `The store is half built: ${grouped(facts.numBuilt)} of ${plural(facts.numRows, "row")} are there.`,
      facts.images.missing ? `The source images are not at hand, so masks are drawn on grey. ${facts.images.missing}` : "",
    ].filter(Boolean);
    byId("notice").textContent = notices.join(" ");
    byId("notice").hidden = !notices.length;
    byId("provenance").replaceChildren(...tableRows([
      ["data set", `${facts.dataset}, ${facts.split}`],
      ["rows", facts.numRows === facts.numBuilt ? grouped(facts.numRows) : `${grouped(facts.numRows)}, of which ${grouped(facts.numBuilt)} are built`],
      ["detector", [detector.name ?? "unknown", ...flat(detector).filter(([name]) => name !== "name").map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`)].join(", ")],
      ["threshold", threshold === undefined ? "unknown" : `foreground is saliency ${identity.mask?.comparator ?? ">"} ${threshold}`],
      ["mask polarity", facts.maskPolarity],
      ["soft maps", facts.keepsSoftMaps ? "kept" : "not kept: build-store --soft-maps keeps them"],
      ["images on this page", facts.images.where ? `from ${facts.images.where}` : "none"],
      ["store id", facts.storeId ?? "none until it is finished"],
      ["schema", facts.schemaVersion],
    ]));
    byId("status-table").replaceChildren(...facts.statuses.map(({ label, count, meaning }) =>
      element("tr", {}, element("th", { scope: "row" }, label), element("td", { class: "n" }, grouped(count)), element("td", {}, meaning))));
    byId("identity").replaceChildren(...tableRows(flat(identity)));
  }

  function showControls() {
    const counts = new Map();
    for (const status of columns.status) counts.set(status, (counts.get(status) ?? 0) + 1);
    byId("statuses").replaceChildren(...facts.statuses.map(({ code, label, meaning }) => {
      const box = element("input", { type: "checkbox", value: code });
      box.addEventListener("change", () => {
        box.checked ? state.statuses.add(code) : state.statuses.delete(code);
        change({});
      });
      return element("label", { title: meaning }, box, label, element("span", { class: "n" }, grouped(counts.get(code) ?? 0)));
    }));
    byId("class").replaceChildren(
      element("option", { value: -1 }, `all ${facts.classes.length}`),
      ...facts.classes.map((name, number) => element("option", { value: number }, name)),
    );
    byId("sort").replaceChildren(...Object.entries(SORTS).map(([name, [title]]) => element("option", { value: name }, title)));
  }

  function listen() {
    const inRange = (input, otherwise) => (input.value === "" ? otherwise : Math.min(100, Math.max(0, Number(input.value))));
    byId("class").addEventListener("change", (event) => change({ class: Number(event.target.value) }));
    byId("sort").addEventListener("change", (event) => change({ sort: event.target.value }));
    byId("from").addEventListener("change", (event) => change({ from: inRange(event.target, 0) }));
    byId("to").addEventListener("change", (event) => change({ to: inRange(event.target, 100) }));
    byId("reset").addEventListener("click", () => change(unfiltered()));
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("finder").addEventListener("submit", submitFind);
    for (const suffix of ["", "-below"]) {
      byId(`previous${suffix}`).addEventListener("click", () => turn(-1));
      byId(`next${suffix}`).addEventListener("click", () => turn(1));
    }
    byId("only-marked").addEventListener("change", (event) => change({ onlyMarked: event.target.checked }));
    byId("marks-download").addEventListener("click", download);
    byId("marks-copy").addEventListener("click", copy);
    byId("row-mark").addEventListener("click", () => toggleMark(state.row));
    byId("row-previous").addEventListener("click", () => step(-1));
    byId("row-next").addEventListener("click", () => step(1));
    byId("row-close").addEventListener("click", () => byId("row").close());
    byId("row").addEventListener("click", (event) => { if (event.target === byId("row")) byId("row").close(); });
    byId("row").addEventListener("close", rowClosed);
    document.addEventListener("keydown", onKey);
    addEventListener("hashchange", begin);
  }

  // Show what the address says.
  async function begin() {
    state = fromAddress();
    readMarks();
    showMarks();
    const place = state.row;
    await refresh();
    if (place >= 0) openRow(place);
  }

  return {
    store(given) {
      facts = given;
      columns = Object.fromEntries(Object.entries(facts.columns).map(([name, column]) => [name, unpacked(column)]));
      let row = -1;
      columns.row = Uint32Array.from(columns.step, (step) => (row += step));
      if (facts.isPacked) {
        ranks = new Uint32Array(columns.row.length);
        sorted(ranks.map((_, place) => place), SORTS.doubt[1]).forEach((place, rank) => { ranks[place] = rank; });
      }
      // A store without soft maps has three pictures a row, not a fourth that is never there.
      kinds = facts.kinds.filter((kind) => kind !== "saliency" || facts.keepsSoftMaps);
      document.documentElement.style.setProperty("--kinds", kinds.length);
      if (isPhone.matches) byId("tools").open = byId("guide").open = false;
      if (!facts.keepsSoftMaps) byId("about-saliency").textContent = "This store keeps none; build-store --soft-maps does.";
      showControls();
      showProvenance();
      listen();
      begin();
    },
    rows(number, rows) {
      chunks.get(number)?.resolve(rows);
    },
  };
})();
