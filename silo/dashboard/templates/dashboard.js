// Listens to the event stream and replaces the sections that changed. The page is fetched as a document and its nodes
// are adopted, so no text is ever parsed as markup here (the content policy forbids it: trusted-types 'none').
"use strict";
const live = document.getElementById("live");
let shown = document.body.dataset.version;

function say(state, words) {
  live.dataset.state = state;
  if (live.textContent !== words) live.textContent = words;
}

function adopt(page) {
  for (const id of ["taken", "contents"]) {
    const now = document.getElementById(id).closest("time, nav"), next = page.getElementById(id).closest("time, nav");
    if (!now.isEqualNode(next)) now.replaceWith(document.adoptNode(next));
  }
  const main = document.querySelector("main"), known = new Map([...main.children].map((each) => [each.id, each]));
  for (const next of [...page.querySelector("main").children]) {
    const now = known.get(next.id);
    known.delete(next.id);
    if (now === undefined) main.append(document.adoptNode(next));
    else if (!now.isEqualNode(next)) now.replaceWith(document.adoptNode(next));
  }
  for (const gone of known.values()) gone.remove();
}

function refresh(version, words) {
  const request = new XMLHttpRequest();
  request.open("GET", location.pathname);
  request.responseType = "document";
  request.onload = () => {
    if (request.status !== 200 || request.response === null) return;
    adopt(request.response);
    shown = version;
    say("live", words);
  };
  request.send();
}

const stream = new EventSource("events");
stream.addEventListener("view", (event) => {
  const { version, words } = JSON.parse(event.data);
  if (String(version) === shown) say("live", words);
  else refresh(String(version), words);
});
stream.onerror = () => {
  say("gone", stream.readyState === EventSource.CLOSED
    ? "The dashboard has ended. What is below is old: start silo dashboard again and open the address it prints."
    : "The dashboard does not answer. What is below may be old.");
};
