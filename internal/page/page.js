"use strict";
// The page works without this. With it, times count, and an open page takes over what changes.

const body = document.body, live = document.getElementById("live");
let ahead = 0; // of the server's clock before this one, in milliseconds

function readClock() { ahead = Date.parse(body.dataset.now) - Date.now(); }

// span says how long a time is, in its two largest units.
function span(ms) {
	const [d, h, m, s] = body.dataset.units.split(" ");
	const all = Math.floor(ms / 1000);
	const parts = [[Math.floor(all / 86400), d], [Math.floor(all / 3600) % 24, h], [Math.floor(all / 60) % 60, m], [all % 60, s]];
	const first = parts.findIndex(([n]) => n > 0);
	const two = first < 0 ? parts.slice(3) : parts.slice(first, first + 2);
	return two.map(([n, unit], i) => String(n).padStart(i ? 2 : 1, "0") + unit).join(" ");
}

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

// count has all times say how far away they are.
function count() {
	const now = Date.now() + ahead;
	for (const time of document.querySelectorAll("time.until")) {
		const left = Date.parse(time.dateTime) - now;
		const since = "since" in time.dataset;
		setText(time, since ? span(Math.max(0, -left)) : left > 0 ? span(left) : body.dataset.past);
	}
	for (const rest of document.querySelectorAll(".life .left")) {
		const to = Date.parse(rest.dataset.to), whole = to - Date.parse(rest.dataset.from);
		rest.setAttribute("width", whole > 0 ? (100 * Math.min(1, Math.max(0, (to - now) / whole))).toFixed(1) : 0);
	}
}

// keyOf is by what a node is found again: its id.
function keyOf(node) { return node.nodeType === Node.ELEMENT_NODE ? node.id : ""; }

// morph makes a node like another one and keeps what is the same, so that focus, selection and
// scroll position stay. What has data-own belongs to the browser.
function morph(old, now) {
	if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName || keyOf(old) !== keyOf(now)) {
		old.replaceWith(now);
		return;
	}
	if (old.nodeType !== Node.ELEMENT_NODE) {
		if (old.nodeValue !== now.nodeValue) old.nodeValue = now.nodeValue;
		return;
	}
	if ("own" in old.dataset) return;
	for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
	for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
	if (old.matches("time.until")) return; // count says the rest
	const known = new Map();
	for (const child of old.children) if (child.id) known.set(child.id, child);
	let at = old.firstChild;
	for (const next of [...now.childNodes]) {
		const same = keyOf(next) && known.get(next.id);
		if (same && same !== at) {
			// What stood here is gone, or comes later.
			old.insertBefore(same, at);
			at = same;
		} else if (!same && at && keyOf(at)) {
			old.insertBefore(next, at);
			continue;
		}
		if (!at) {
			old.append(next);
			continue;
		}
		const after = at.nextSibling;
		morph(at, next);
		at = after;
	}
	while (at) {
		const after = at.nextSibling;
		at.remove();
		at = after;
	}
}

let fetching = false, again = false;

// renew fetches the page and takes over what differs.
async function renew() {
	if (fetching) {
		again = true;
		return;
	}
	fetching = true;
	try {
		const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
		const now = new DOMParser().parseFromString(await answer.text(), "text/html");
		if (now.getElementById("main")) {
			document.title = now.title;
			body.dataset.now = now.body.dataset.now;
			readClock();
			const focused = document.activeElement.id;
			morph(document.getElementById("main"), now.getElementById("main"));
			// A row that moved to another table is a new one.
			if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
			count();
			if (stream?.readyState === EventSource.OPEN) say("live");
		}
	} catch {
		say("lost"); // the stream notices too, and comes back
	}
	fetching = false;
	if (again) {
		again = false;
		renew();
	}
}

function say(how) {
	live.hidden = false;
	live.classList.toggle("on", how === "live");
	setText(live, live.dataset[how]);
}

let stream, later;

// listen hears of changes, while somebody can see the page.
function listen() {
	clearTimeout(later);
	stream = new EventSource("/events");
	stream.onopen = () => say("live");
	stream.addEventListener("change", renew);
	stream.onerror = () => {
		if (stream.readyState !== EventSource.CLOSED) {
			say("lost");
			return;
		}
		say("no"); // too many listen already
		later = setTimeout(() => { renew(); listen(); }, 30000);
	};
}

function onVisible() {
	if (document.hidden) {
		clearTimeout(later);
		stream?.close();
		stream = undefined;
	} else if (!stream) {
		listen();
	}
}

readClock();
count();
setInterval(count, 1000);
document.addEventListener("visibilitychange", onVisible);
onVisible();
