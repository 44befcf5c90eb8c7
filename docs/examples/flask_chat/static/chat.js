"use strict";

const { key, csrf } = document.body.dataset;
const headers = { "X-CSRF-Token": csrf };

// The real-time server has the address of the site.
const pusher = new Pusher(key, {
  cluster: "",
  wsHost: location.hostname,
  wsPort: location.port || 80,
  wssPort: location.port || 443,
  forceTLS: location.protocol === "https:",
  enabledTransports: ["ws", "wss"],
  channelAuthorization: { endpoint: "/pusher/auth", headers },
});

for (const room of document.querySelectorAll("[data-channel]")) {
  const channel = pusher.subscribe(room.dataset.channel);
  const state = room.querySelector("output");
  const log = room.querySelector("ol");
  const form = room.querySelector("form");

  channel.bind("pusher:subscription_succeeded", () => { state.value = "joined"; });
  channel.bind("pusher:subscription_error", () => { state.value = "refused"; });
  channel.bind("message", ({ from, text }) => {
    const name = document.createElement("strong");
    name.textContent = from;
    const line = document.createElement("li");
    line.append(name, " ", text);
    log.append(line);
    line.scrollIntoView({ block: "nearest" });
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new URLSearchParams({ room: room.dataset.channel, text: form.elements.text.value });
    const answer = await fetch("/messages", { method: "POST", headers, body });
    state.value = answer.ok ? "joined" : "not sent";
    if (answer.ok) form.reset();
  });
}
