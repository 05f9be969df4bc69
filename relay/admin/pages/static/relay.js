// What the pages do in a browser beyond htmx: times in its own zone, and what the live part has to say.
"use strict";

// As the browser writes dates, if it is set to the page's language.
const language = document.documentElement.lang;
const locale = navigator.language.startsWith(language) ? navigator.language : language;
const dateTime = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });

// Write every instant in the browser's zone. "5 min ago" stays as it is, and gets the instant as its title.
function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) {
      const text = dateTime.format(at);
      if (time.classList.contains("ago")) {
        time.title = text;
      } else {
        time.textContent = text;
        time.title = time.dateTime;
      }
    }
  }
}

// A screen reader hears of the live part only what has changed in its one sentence.
function tell() {
  const told = document.getElementById("live-told");
  const live = document.querySelector("[data-summary]");
  if (told && live && told.textContent !== live.dataset.summary) {
    told.textContent = live.dataset.summary;
  }
}

function setLost(lost) {
  const notice = document.getElementById("live-lost");
  if (notice) {
    notice.hidden = !lost;
  }
}

// A button that asks first, where there is no way back.
function confirmed(event) {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
  }
}

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  tell();
});
document.addEventListener("submit", confirmed, true);
document.addEventListener("htmx:afterSwap", () => {
  localTimes(document);
  tell();
});
document.addEventListener("htmx:afterRequest", (event) => setLost(!event.detail.successful));
