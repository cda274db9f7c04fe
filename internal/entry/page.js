"use strict";
// The page works without this. With it, a phone goes on at once, time counts, an open page renews
// itself, and says when somebody has authorized. WeChat has old browsers, so it is plain.

const lost = document.getElementById("lost"), said = document.getElementById("said");
let main, end, busy = 0;

// show begins to show what is new.
function show(next) {
	main = next;
	end = Date.now() + 1000 * main.dataset.left; // no number if it stays
	count();
}

function count() {
	const left = Math.ceil((end - Date.now()) / 1000);
	const shown = main.querySelector(".left");
	if (shown && left >= 0) shown.textContent = Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0");
	if (left <= 0 && !document.hidden) load("GET");
}

// load fetches the page and takes over what it says. The browser sends a cookie with the codes that the
// page has shown.
function load(method) {
	if (busy > Date.now()) return;
	busy = Date.now() + 20000; // a connection that hangs, as between two networks, is given up then
	fetch(location.href, { method, credentials: "same-origin" }).then((answer) => {
		if (method === "POST" && (answer.status === 204 || answer.status === 429)) return; // not yet, or not now
		return answer.text().then((text) => take(new DOMParser().parseFromString(text, "text/html")));
	}).then(() => { lost.hidden = true; }, () => {
		lost.hidden = false;
		if (!(end > Date.now())) end = Date.now() + 5000;
	}).then(() => { busy = 0; });
}

// take replaces what the page says. What is not this page is as good as no answer.
function take(answer) {
	const next = answer.querySelector("main[class]");
	if (!next) throw new Error("not the page");
	const focused = main.contains(document.activeElement), changed = next.className !== main.className;
	main.replaceWith(next);
	document.title = answer.title;
	if (focused) (document.getElementById(changed ? "" : "go") || next).focus();
	if (changed) said.textContent = next.querySelector("h1").textContent;
	show(next);
	goOn();
}

// ask asks whether somebody has authorized, also when the link has expired meanwhile.
function ask() {
	if (!document.hidden && "asks" in main.dataset) load("POST");
}

show(document.querySelector("main"));
setInterval(count, 1000);
setInterval(ask, 5000);
document.addEventListener("visibilitychange", () => { count(); ask(); });

// goOn has a phone go on to WeChat's page, once: who comes back from there wants to stay.
const how = performance.getEntriesByType("navigation")[0];
let gone = how && how.type === "back_forward";
function goOn() {
	if (gone || main.className !== "phone") return;
	gone = true;
	location.assign(document.getElementById("go").href);
}
// Before the page is loaded, going on would leave nothing to come back to.
addEventListener("load", () => setTimeout(goOn));
