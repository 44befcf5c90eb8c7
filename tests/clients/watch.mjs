// Runs pusher-js as the first argument says, and reports what it sees as JSON, one object a line.
//
// For tests in which the server changes meanwhile. It ends by itself when pusher-js has given up: Node exits when no
// socket and no timer is left, so an end also proves that nothing is planned any more.

import { client } from "./support.mjs";

const { channels = [], signin = false, ...options } = JSON.parse(process.argv[2]);
const report = (what, details) => console.log(JSON.stringify({ what, ...details }));

const pusher = client(options);
pusher.connection.bind("state_change", ({ current }) => report("state", { state: current, socket: pusher.connection.socket_id }));
pusher.connection.bind("error", (error) => report("error", { code: (error.data ?? error.error?.data)?.code ?? null }));
pusher.connection.bind("message", ({ event, channel }) => report("message", { event, channel }));
pusher.user.bind_global((event, data) => report("user", { event, data }));
for (const name of channels) {
  pusher.subscribe(name).bind_global((event, data) => report("event", { channel: name, event, data }));
}
if (signin) pusher.signin();
