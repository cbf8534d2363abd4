// Keeps the page as it is on the daemon. Without it the page can be read, and its buttons work, all the same.
"use strict";

const live = document.getElementById("live");
let asking = false;
let again = false;

function opened(section) {
  return new Set([...section.querySelectorAll("details")].flatMap((each, number) => (each.open ? [number] : [])));
}

function replaceGroup(shown, fresh) {
  const open = opened(shown);
  const acts = shown.querySelector(".acts");
  const freshActs = fresh.querySelector(".acts");
  // What somebody is typing stays as long as it still answers what is asked.
  if (acts && freshActs && acts.dataset.situation === freshActs.dataset.situation) {
    freshActs.replaceWith(acts);
  } else if (acts && [...acts.querySelectorAll("input:not([type=hidden])")].some((each) => each.value)) {
    live.textContent = "The situation has changed: what was typed was for the one before.";
  }
  const focus = document.activeElement;
  shown.replaceWith(fresh);
  if (focus && focus !== document.activeElement && fresh.contains(focus)) focus.focus();
  const details = [...fresh.querySelectorAll("details")];
  if (details.length) details.forEach((each, number) => { each.open = open.has(number); });
}

async function look() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const answer = await fetch("/page/groups", { headers: { Accept: "text/html" }, cache: "no-store" });
    if (answer.status === 401) { window.location.assign("/sign-in"); return; }
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector(".as-of").replaceWith(fresh.querySelector(".as-of"));
    for (const section of fresh.querySelectorAll("section.group")) {
      const shown = document.getElementById(section.id);
      if (shown) replaceGroup(shown, document.adoptNode(section));
    }
  } catch (error) {
    live.textContent = "This node does not answer: what is shown is old.";
  } finally {
    asking = false;
    if (again) { again = false; look(); }
  }
}

const events = new EventSource("/page/events");
events.addEventListener("open", () => { live.textContent = "Live."; });
events.addEventListener("look", look);
events.addEventListener("error", () => { live.textContent = "This node does not answer: what is shown is old."; });
