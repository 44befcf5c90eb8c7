// Laravel Echo, with the broadcaster that the environment names, against the server and a back end like Laravel's.

import assert from "node:assert/strict";
import test from "node:test";

import Echo from "laravel-echo";
import Pusher from "pusher-js";

import { Inbox, address, backend, eventually, heard, library, settled, unique } from "./support.mjs";

const { BROADCASTER: broadcaster } = process.env;
const ada = { user_id: 1, user_info: { id: 1, name: "Ada" } };
const bob = { user_id: 2, user_info: { id: 2, name: "Bob" } };

/** An Echo that is connected and asks a back end, which takes it for `member` and `user`. */
async function connected(t, { member, user, ...options } = {}) {
  const { url, token } = await backend(t, { member, user });
  const userAuthentication = { endpoint: `${url}/broadcasting/user-auth`, headers: {} };
  const authEndpoint = `${url}/broadcasting/auth`;
  const echo = new Echo({ broadcaster, Pusher, ...address, authEndpoint, userAuthentication, bearerToken: token, ...options });
  t.after(() => echo.disconnect());
  await heard(echo.connector.pusher.connection, "connected").next();
  return echo;
}

/** Resolves when the channel's subscription has succeeded. */
async function ready(channel) {
  const success = new Inbox(`success of ${channel.name}`);
  channel.subscribed(success.put);
  await success.next();
  return channel;
}

/** What an Echo method such as `listen` hands to its callback. */
function told(channel, method, ...words) {
  const inbox = new Inbox(`${method} ${words}`);
  channel[method](...words, inbox.put);
  return inbox;
}

async function isVacant(channel) {
  const response = await library.get({ path: `/channels/${channel.name}` });
  return !(await response.json()).occupied;
}

test("listens to events of the default namespace", async (t) => {
  const echo = await connected(t);
  const channel = await ready(echo.channel(unique("orders-")));
  const [plain, nested] = [told(channel, "listen", "OrderShipped"), told(channel, "listen", "Orders.OrderShipped")];
  await library.trigger(channel.name, "App\\Events\\OrderShipped", { order: { id: 7 } });
  await library.trigger(channel.name, "App\\Events\\Orders\\OrderShipped", { order: { id: 8 } });
  assert.deepEqual(await plain.next(), { order: { id: 7 } });
  assert.deepEqual(await nested.next(), { order: { id: 8 } });
});

test("listens to names of its own and to other namespaces", async (t) => {
  const echo = await connected(t, { namespace: "Shop.Events" });
  const channel = await ready(echo.channel(unique("orders-")));
  const [named, absolute, own] = [".order.shipped", "\\Other\\Event", "OrderShipped"].map((name) => told(channel, "listen", name));
  await library.trigger(channel.name, "order.shipped", 1);
  await library.trigger(channel.name, "Other\\Event", 2);
  await library.trigger(channel.name, "Shop\\Events\\OrderShipped", 3);
  assert.deepEqual([await named.next(), await absolute.next(), await own.next()], [1, 2, 3]);
});

test("listens to everything, and stops listening", async (t) => {
  const channel = await ready((await connected(t)).channel(unique("orders-")));
  const [stopped, all] = [new Inbox("OrderShipped"), new Inbox("everything")];
  channel.listen("OrderShipped", stopped.put).stopListening("OrderShipped", stopped.put);
  channel.listenToAll((event, data) => all.put([event, data]));
  await library.trigger(channel.name, "App\\Events\\OrderShipped", 1);
  await library.trigger(channel.name, "order.shipped", 2);
  assert.deepEqual([await all.next(), await all.next()], [["OrderShipped", 1], [".order.shipped", 2]]);
  assert.deepEqual(stopped.drain(), []);
});

test("listens on a private channel", async (t) => {
  const name = unique("orders-");
  const events = told(await ready((await connected(t)).private(name)), "listen", "OrderShipped");
  await library.trigger(`private-${name}`, "App\\Events\\OrderShipped", { id: 7 });
  assert.deepEqual(await events.next(), { id: 7 });
});

test("is told of the error when the back end refuses", async (t) => {
  const echo = await connected(t, { bearerToken: "another" });
  const errors = told(echo.private(unique("orders-")), "error");
  const { type, status } = await errors.next();
  assert.deepEqual({ type, status }, { type: "AuthError", status: 403 });
});

test("decrypts on an encrypted private channel", async (t) => {
  const name = unique("orders-");
  const events = told(await ready((await connected(t)).encryptedPrivate(name)), "listen", "OrderShipped");
  await library.trigger(`private-encrypted-${name}`, "App\\Events\\OrderShipped", { secret: "äöü" });
  assert.deepEqual(await events.next(), { secret: "äöü" });
});

test("joins a presence channel: here, joining, leaving", async (t) => {
  const name = unique("room-");
  const room = (await connected(t, { member: ada })).join(name);
  const [here, joining, leaving] = [told(room, "here"), told(room, "joining"), told(room, "leaving")];
  assert.deepEqual(await here.next(), [ada.user_info]);

  const guest = await connected(t, { member: bob });
  assert.deepEqual(await told(guest.join(name), "here").next(), [ada.user_info, bob.user_info]);
  assert.deepEqual(await joining.next(), bob.user_info);
  guest.leave(name);
  assert.deepEqual(await leaving.next(), bob.user_info);

  await ready(guest.join(name));
  assert.deepEqual(await joining.next(), bob.user_info);
  guest.disconnect();
  assert.deepEqual(await leaving.next(), bob.user_info);
});

test("whispers on a private channel", async (t) => {
  const name = unique("chat-");
  const [one, two] = [await ready((await connected(t)).private(name)), await ready((await connected(t)).private(name))];
  const [atOne, atTwo] = [told(one, "listenForWhisper", "typing"), told(two, "listenForWhisper", "typing")];
  one.whisper("typing", { name: "Ada" });
  assert.deepEqual(await atTwo.next(), { name: "Ada" });
  two.whisper("typing", { name: "Bob" });
  assert.deepEqual(await atOne.next(), { name: "Bob" });
  assert.deepEqual(atTwo.drain(), []);
});

test("whispers on a presence channel", async (t) => {
  const name = unique("chat-");
  const one = await ready((await connected(t, { member: ada })).join(name));
  const two = await ready((await connected(t, { member: bob })).join(name));
  const whispers = told(two, "listenForWhisper", "typing");
  one.whisper("typing", { name: "Ada" });
  assert.deepEqual(await whispers.next(), { name: "Ada" });
});

test("receives notifications", async (t) => {
  const name = unique("App.Models.User.");
  const notices = told(await ready((await connected(t)).private(name)), "notification");
  const payload = { id: "9f1c", type: "App\\Notifications\\InvoicePaid", amount: 12.5 };
  await library.trigger(`private-${name}`, "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated", payload);
  assert.deepEqual(await notices.next(), payload);
});

test("is left out by toOthers", async (t) => {
  const [sender, other] = [await connected(t), await connected(t)];
  const name = unique("orders-");
  const own = told(await ready(sender.channel(name)), "listen", ".posted");
  const others = told(await ready(other.channel(name)), "listen", ".posted");
  await library.trigger(name, "posted", "to others", { socket_id: sender.socketId() });
  await library.trigger(name, "posted", "to all");
  assert.equal(await others.next(), "to others");
  assert.equal(await own.next(), "to all");
});

test("leaves a channel with its private, encrypted and presence variants", async (t) => {
  const echo = await connected(t, { member: ada });
  const name = unique("room-");
  const channels = [echo.channel(name), echo.private(name), echo.encryptedPrivate(name), echo.join(name)];
  await Promise.all(channels.map(ready));
  echo.leave(name);
  for (const channel of channels) await eventually(() => isVacant(channel));
});

test("signs its user in", async (t) => {
  const user = { id: unique("user-") };
  const echo = await connected(t, { user });
  const { pusher } = echo.connector;
  const [success, notices] = [heard(pusher, "pusher:signin_success"), heard(pusher.user, "notice")];
  echo.connector.signin();
  await success.next();
  await settled(pusher);
  await library.sendToUser(user.id, "notice", { text: "hello" });
  assert.deepEqual(await notices.next(), { text: "hello" });
});
